"""Answers: the objects of OpenAI's API, whole or as events.

Invariant: the events of a choice, joined, say what the whole answer says. The arrays of log-probabilities hold every
token that was generated, those that end the text too.
"""

import codecs
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nemotron4_data import Tokenizer
from nemotron4_infer.engine.request import Delta, FinishReason
from nemotron4_infer.sampling.choose import ChosenToken
from nemotron4_infer.server.asked import Asked

DONE = b"data: [DONE]\n\n"
COMMENT = b": still at work\n\n"


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


@dataclass
class Choice:
    """What a choice has come to so far."""

    text: list[str] = field(default_factory=list)
    tokens: list[ChosenToken] = field(default_factory=list)
    prompt: Sequence[ChosenToken] | None = None
    finish: FinishReason | None = None

    def add(self, delta: Delta) -> None:
        """Add what a step gave."""
        self.text.append(delta.text)
        self.tokens += delta.tokens
        self.prompt = delta.prompt if delta.prompt is not None else self.prompt
        self.finish = delta.finish

    @property
    def mean_logprob(self) -> float:
        """Of the generated tokens, to rank choices by."""
        known = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(known) / len(known) if known else -math.inf


@dataclass
class Usage:
    """Counts of tokens."""

    prompt: int = 0
    completion: int = 0
    cached: dict[int, int] = field(default_factory=dict)
    """By prompt."""

    def add(self, number: int, delta: Delta) -> None:
        """Count a Delta of a prompt."""
        self.completion += len(delta.tokens)
        self.cached[number] = max(self.cached.get(number, 0), delta.cached_tokens)

    def content(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached.values())},
        }


class Spelling:
    """Tokens as text, one by one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token; none for one that ends a text."""
        return self._tokenizer.decode_bytes([token])

    def __call__(self, token: int) -> str:
        """The text of a token; `bytes:\\xNN` for a part of a character, so that no two tokens look alike."""
        piece, found = self._tokenizer.piece(token), self.bytes_of(token)
        if self._tokenizer.is_control(token):
            return piece
        try:
            text = found.decode()
        except UnicodeDecodeError:
            text = ""
        is_byte = len(found) == 1 and piece == f"<0x{found[0]:02X}>"
        if text and not (is_byte and self._has_piece(text)):
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)

    def _has_piece(self, character: str) -> bool:
        try:
            self._tokenizer.id_of(character.replace(" ", "\u2581"))
        except ValueError:
            return False
        return True


class CompletionLogprobs:
    """The arrays of a completion; counts the characters before each token."""

    def __init__(self, spelling: Spelling, top: int) -> None:
        self._spelling, self._top = spelling, top
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def arrays(self, tokens: Sequence[ChosenToken]) -> dict[str, Any]:
        """The arrays of the next tokens."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._spelling.bytes_of(token.id)))
        return {
            "tokens": [self._spelling(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._likely(token) for token in tokens],
            "text_offset": offsets,
        }

    def _likely(self, token: ChosenToken) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        likely: dict[str, float] = {}
        for other, logprob in [*token.top[: self._top], (token.id, token.logprob)]:
            likely.setdefault(self._spelling(other), logprob)
        return likely


def chat_logprobs(spelling: Spelling, top: int, tokens: Sequence[ChosenToken]) -> dict[str, Any]:
    """The log-probabilities of a chat."""

    def one(token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": spelling(token), "logprob": logprob, "bytes": list(spelling.bytes_of(token))}

    return {
        "content": [
            one(token.id, token.logprob) | {"top_logprobs": [one(*other) for other in token.top[:top]]}
            for token in tokens
        ]
    }


class Answer:
    """Builds one answer. Choice i of prompt p has the index p * n + i."""

    def __init__(
        self, asked: Asked, tokenizer: Tokenizer, *, is_chat: bool, request_id: str, head: dict[str, Any]
    ) -> None:
        self.asked, self.is_chat = asked, is_chat
        self._tokenizer, self._spelling = tokenizer, Spelling(tokenizer)
        self.usage = Usage(prompt=sum(len(request.prompt_ids) for request in asked.requests))
        kind = "chat.completion" + (".chunk" if asked.stream else "") if is_chat else "text_completion"
        prefix = "chatcmpl-" if is_chat else "cmpl-"
        self._head = {"id": prefix + request_id, "object": kind, "created": int(time.time()), **head}
        self._choices: dict[tuple[int, int], Choice] = {}
        self._arrays: dict[int, CompletionLogprobs] = {}
        self._begun: set[int] = set()

    # Whole answers.

    def add(self, number: int, delta: Delta) -> None:
        """Add a Delta of prompt `number` to the whole answer."""
        self.usage.add(number, delta)
        self._choices.setdefault((number, delta.choice), Choice()).add(delta)

    def whole(self) -> dict[str, Any]:
        """The answer, when every choice has ended."""
        n, choices = self.asked.n, []
        for number, request in enumerate(self.asked.requests):
            found = [self._choices[number, choice] for choice in range(request.choices)]
            if len(found) > n:
                found.sort(key=lambda choice: -choice.mean_logprob)
            choices += [self._whole(number * n + i, number, choice) for i, choice in enumerate(found[:n])]
        return {**self._head, "choices": choices, "usage": self.usage.content()}

    def _whole(self, index: int, number: int, choice: Choice) -> dict[str, Any]:
        assert choice.finish is not None
        text, ends = "".join(choice.text), {"index": index, "finish_reason": choice.finish.value}
        if self.is_chat:
            message = {"role": "assistant", "content": text, "refusal": None}
            return {**ends, "message": message, "logprobs": self._logprobs(index, number, choice.tokens, None)}
        logprobs = self._logprobs(index, number, choice.tokens, choice.prompt)
        return {**ends, "text": self._echo(number) + text, "logprobs": logprobs}

    # Events.

    def events(self, number: int, delta: Delta) -> list[dict[str, Any]]:
        """The events of a Delta of prompt `number`."""
        self.usage.add(number, delta)
        index = number * self.asked.n + delta.choice
        is_first = index not in self._begun
        self._begun.add(index)
        finish = delta.finish.value if delta.finish else None
        has_news = bool(delta.text or (delta.tokens and self.asked.top_logprobs is not None))
        logprobs = self._logprobs(index, number, delta.tokens, delta.prompt) if has_news or delta.prompt else None
        if not self.is_chat:
            text = (self._echo(number) if is_first else "") + delta.text
            if not (has_news or text or finish or delta.prompt):
                return []
            return [self._event({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})]
        found = []
        if is_first:
            found.append(self._delta(index, {"role": "assistant", "content": ""}))
        if has_news:
            found.append(self._delta(index, {"content": delta.text}, logprobs))
        if finish:
            found.append(self._delta(index, {}, None, finish))
        return found

    def last_event(self) -> dict[str, Any]:
        """The counts of tokens."""
        return {**self._head, "choices": [], "usage": self.usage.content()}

    def _delta(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        return self._event({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

    def _event(self, choice: dict[str, Any]) -> dict[str, Any]:
        usage = {"usage": None} if self.asked.include_usage else {}
        return {**self._head, "choices": [choice], **usage}

    def _echo(self, number: int) -> str:
        return self._tokenizer.decode(list(self.asked.shown_ids(number))) if self.asked.echo else ""

    def _logprobs(
        self, index: int, number: int, tokens: Sequence[ChosenToken], prompt: Sequence[ChosenToken] | None
    ) -> dict[str, Any] | None:
        top = self.asked.top_logprobs
        if top is None:
            return None
        if self.is_chat:
            return chat_logprobs(self._spelling, top, tokens)
        arrays = self._arrays.setdefault(index, CompletionLogprobs(self._spelling, top))
        if prompt is not None:
            shown = list(prompt[self.asked.added[number] :])
            # As in OpenAI's API, where nothing comes before the first token of a prompt.
            tokens = [ChosenToken(shown[0].id), *shown[1:], *tokens]
        return arrays.arrays(tokens)
