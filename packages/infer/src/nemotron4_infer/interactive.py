"""`nemotron4 generate interactive=true`: read a line, stream the answer, and keep both as context of the next.

Invariant: Ctrl-C ends an answer or a half-typed line, never the session; other signals end it.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from nemotron4_common.rules import require
from nemotron4_data import Tokenizer
from nemotron4_infer.chat import ChatTemplate, is_tuned_to_chat
from nemotron4_infer.engine.core import Engine
from nemotron4_infer.generate_job import GenerateJob, not_unicode
from nemotron4_infer.streaming import Answer, fitting_request, open_engine, write

Messages = list[tuple[str, str]]
"""(role, text): the user's lines and the answers, in turn."""


def run_session(job: GenerateJob) -> None:
    """Load the model, and answer until the end of input or /quit."""
    with closing(open_engine(job)) as engine:
        template = ChatTemplate.for_tokenizer(engine.tokenizer)
        rule = "needs a tokenizer with turn markers; leave it out to continue text"
        require(template is not None or not job.chat, "chat", job.chat, rule)
        is_chat = is_tuned_to_chat(Path(job.model_dir)) if job.chat is None else job.chat
        session = Session(engine, job, template if is_chat else None)
        with session.handling_interrupts():
            session.run()


class Session:
    """One conversation, or one text that grows."""

    def __init__(self, engine: Engine, job: GenerateJob, template: ChatTemplate | None) -> None:
        self.engine, self.template, self.sampling = engine, template, job.sampling
        if template is not None:
            ids = [*job.sampling.stop_token_ids, *template.stop_token_ids]
            self.sampling = replace(job.sampling, stop_token_ids=ids)
        self.messages: Messages = []
        self._is_answering = self._is_stopped = self._has_told = False

    def run(self) -> None:
        """Read and answer until the end of input or /quit."""
        with suppress(ImportError):  # editing of lines and their history, where Python was built with it
            import readline  # noqa: F401  # input() uses it once it is imported
        _tell(_WELCOME[self.template is not None])
        while True:
            try:
                line = input("> ")
                if line.strip() == "/quit":
                    return
                self._take(line)
            except EOFError:
                write("\n")
                return
            except _InterruptError:
                write("\n")
            except UnicodeDecodeError:
                _tell("That line is not UTF-8; set the terminal to it.")

    def _take(self, line: str) -> None:
        if line.strip() == "/reset":
            self.messages, self._has_told = [], False
            _tell("Forgotten.")
        elif not_unicode(line) is not None:
            _tell("That line is not UTF-8; set the terminal to it.")
        elif line.strip() or (self.template is None and self.messages):
            self._answer(line)

    def _answer(self, line: str) -> None:
        messages: Messages = [*self.messages, ("user", line)]
        longest = self.engine.max_sequence_length
        room = longest - min(self.sampling.max_new_tokens, longest // 2)
        encode = self._chat_ids if self.template is not None else self._text_ids
        prompt_ids, is_cut = encode(messages, room)
        try:
            request = fitting_request(self.engine, prompt_ids, self.sampling)
        except ValueError as error:
            _tell(str(error))
            return
        if is_cut and not self._has_told:
            self._has_told = True
            _tell(f"The beginning no longer fits in the model's context of {longest} tokens and is left out.")
        answer, self._is_stopped, self._is_answering = Answer(), False, True
        try:
            answer.run(self.engine, request, lambda: self._is_stopped)
        finally:
            self._is_answering = False
        self.messages = [*messages, ("assistant", answer.text)]
        write("\n")
        _tell(f"({answer.statistics()})")

    def _chat_ids(self, messages: Messages, room: int) -> tuple[list[int], bool]:
        """The prompt, and whether the oldest turns had to be left out."""
        assert self.template is not None
        kept = messages
        while len(ids := self.template.encode(kept)) > room and len(kept) > 1:
            kept = kept[2:]
        return ids, len(kept) < len(messages)

    def _text_ids(self, messages: Messages, room: int) -> tuple[list[int], bool]:
        """The end of the text that fits, and whether its beginning had to be left out."""
        tokenizer: Tokenizer = self.engine.tokenizer
        text = ""
        for role, part in messages:
            text += "\n" + part if role == "user" and text and part else part
        ids = [tokenizer.eos_id, *tokenizer.encode(text)]
        return ids[-room:], len(ids) > room

    @contextmanager
    def handling_interrupts(self) -> Iterator[None]:
        """Let Ctrl-C stop an answer between two steps, or drop a half-typed line."""
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._is_answering:
            raise _InterruptError
        self._is_stopped = True


class _InterruptError(Exception):
    """Ctrl-C while a line is typed."""


_COMMANDS = "/reset forgets it, Ctrl-C stops an answer, /quit or Ctrl-D leaves."
_WELCOME = {
    True: f"A chat. {_COMMANDS}",
    False: f"The model continues your text. A line you type is added to it, an empty one lets it go on. {_COMMANDS}",
}


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
