"""The text of one choice: from the logits after its last token to tokens, text and the reason why it ends."""

from typing import Protocol

from nemotron4_data import StreamDecoder, Tokenizer
from nemotron4_infer.engine.request import Delta, FinishReason, Request
from nemotron4_infer.sampling.choose import ChosenToken, SamplerState
from nemotron4_infer.sampling.stop_strings import StopStrings


class Guesser(Protocol):
    """Guesses what follows in a text: `lookup.Lookup`."""

    def propose(self, token_ids: list[int]) -> list[int]:
        """Guesses for the tokens that follow; none is an answer."""

    def accepted(self, num_proposed: int, num_accepted: int) -> None:
        """How many of the last guesses were right."""


class Continuation:
    """What a step added is gathered here until `delta` hands it out."""

    def __init__(self, request: Request, number: int, choice: int, tokenizer: Tokenizer) -> None:
        self.request, self.number, self.choice = request, number, choice
        self.state = SamplerState(
            sampling=request.sampling,
            choice=choice,
            vocab_size=tokenizer.vocab_size,
            logprobs=request.logprobs,
            prompt_ids=request.prompt_ids,
        )
        self.token_ids = list(request.prompt_ids)
        """Prompt and what was chosen."""
        self.guesser: Guesser | None = None
        self.scored: list[ChosenToken] = []
        """The tokens of the prompt whose log-probabilities are known."""
        self.prompt: list[ChosenToken] | None = None
        """All of them, until they are handed out."""
        self.finish: FinishReason | None = None
        self.error: str | None = None
        self._eos_id = tokenizer.eos_id
        self._decoder, self._stops = StreamDecoder(tokenizer), StopStrings(request.sampling.stop)
        self._tokens: list[ChosenToken] = []
        self._text = ""

    @property
    def num_generated(self) -> int:
        """Tokens chosen so far."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    def take(self, token: ChosenToken) -> None:
        """Add a chosen token, which may end the choice."""
        sampling = self.request.sampling
        self._tokens.append(token)
        self.token_ids.append(token.id)
        ends = token.id in sampling.stop_token_ids or (token.id == self._eos_id and not sampling.ignore_eos)
        text, stopped = ("", False) if ends else self._stops.push(self._decoder.push(token.id))
        self._text += text
        if ends or stopped:
            self.finish = FinishReason.stop
        elif self.num_generated >= sampling.max_new_tokens:
            self.finish = FinishReason.length
        if self.finish is not None and not stopped:
            text, stopped = self._stops.push(self._decoder.finish())
            self._text += text + ("" if stopped else self._stops.finish())

    def fail(self, line: str) -> None:
        """End the choice by a fault of ours."""
        self.finish, self.error = FinishReason.error, line

    def delta(self, num_cached: int) -> Delta:
        """What was added since the last call."""
        tokens, text, prompt = self._tokens, self._text, self.prompt
        self._tokens, self._text, self.prompt = [], "", None
        return Delta(
            request=self.number,
            choice=self.choice,
            tokens=tokens,
            text=text,
            prompt=prompt,
            finish=self.finish,
            cached_tokens=num_cached,
            error=self.error,
        )
