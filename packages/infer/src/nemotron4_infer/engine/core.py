"""The engine's synchronous core: no clock, no thread, no I/O.

Interface that loop.py, generate and the server rely on. This first version runs one sequence at a time.
"""

from collections import deque

import torch

from nemotron4_common.rules import require
from nemotron4_data import StreamDecoder, Tokenizer
from nemotron4_infer.cache import KVCache
from nemotron4_infer.engine.config import EngineConfig
from nemotron4_infer.engine.request import Delta, FinishReason, Request
from nemotron4_infer.sampling.choose import SamplerState, choose, logprobs_of
from nemotron4_infer.sampling.stop_strings import StopStrings
from nemotron4_model import Transformer


class QueueFullError(Exception):
    """engine.max_waiting sequences wait already."""


class Engine:
    """Many requests on one model. Not thread-safe: one thread calls it."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, config: EngineConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.max_sequence_length = model.config.max_sequence_length
        self._waiting: deque[tuple[int, int, Request]] = deque()
        self._running: _Sequence | None = None
        self._next = 0

    def check(self, request: Request) -> None:
        """Raise ValueError, one line, for a request that can never run. May be called from any thread."""
        count, longest = len(request.prompt_ids), self.max_sequence_length
        require(count > 0, "prompt", "''", "must have at least one token")
        wanted, rule = count + request.sampling.max_new_tokens, f"must fit in the model's context of {longest} tokens"
        require(wanted <= longest, "prompt + max_new_tokens", f"{count} + {wanted - count} tokens", rule)

    def add(self, request: Request) -> int:
        """Take a request that `check` accepts; returns its number. QueueFullError if too many wait."""
        if len(self._waiting) + request.choices > self.config.max_waiting:
            raise QueueFullError
        number, self._next = self._next, self._next + 1
        self._waiting.extend((number, choice, request) for choice in range(request.choices))
        return number

    def cancel(self, number: int) -> None:
        """End a request, whose choices get no further Delta. A number that is not known, or done, is ignored."""
        self._waiting = deque(item for item in self._waiting if item[0] != number)
        if self._running is not None and self._running.number == number:
            self._running = None

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self._waiting) or self._running is not None

    def step(self) -> list[Delta]:
        """Compute one step; returns what it added to each choice."""
        if self._running is None:
            if not self._waiting:
                return []
            self._running = _Sequence(self, *self._waiting.popleft())
        delta = self._running.advance()
        if delta.finish is not None:
            self._running = None
        return [delta]


class _Sequence:
    def __init__(self, engine: Engine, number: int, choice: int, request: Request) -> None:
        self.engine, self.number, self.choice, self.request = engine, number, choice, request
        self.state = SamplerState(
            sampling=request.sampling,
            choice=choice,
            vocab_size=engine.tokenizer.vocab_size,
            logprobs=request.logprobs,
            prompt_ids=request.prompt_ids,
        )
        self.decoder, self.stops = StreamDecoder(engine.tokenizer), StopStrings(request.sampling.stop)
        parameter = next(engine.model.parameters())
        capacity = len(request.prompt_ids) + request.sampling.max_new_tokens
        self.cache = KVCache(engine.model.config, capacity=capacity, dtype=parameter.dtype, device=parameter.device)
        self.next_ids, self.device = list(request.prompt_ids), parameter.device

    @torch.inference_mode()
    def advance(self) -> Delta:
        request, sampling, prompt = self.request, self.request.sampling, None
        is_first = self.cache.length == 0
        every = is_first and request.prompt_logprobs is not None
        tokens_1T = torch.tensor([self.next_ids], device=self.device)
        position_1T = self.cache.positions(len(self.next_ids))
        logits_TV = self.engine.model(tokens_1T, position_BT=position_1T, cache=self.cache, last_only=not every)[
            0, :, : self.state.vocab_size
        ]
        if every:
            assert request.prompt_logprobs is not None
            from nemotron4_infer.sampling.choose import ChosenToken

            following = request.prompt_ids[1:]
            scored = logprobs_of(logits_TV[:-1], following, request.prompt_logprobs)
            prompt = [ChosenToken(request.prompt_ids[0]), *scored]
        if sampling.max_new_tokens == 0:
            return Delta(request=self.number, choice=self.choice, prompt=prompt, finish=FinishReason.length)
        (token,) = choose(logits_TV[-1:], [self.state])
        ends = token.id in sampling.stop_token_ids
        ends = ends or (token.id == self.engine.tokenizer.eos_id and not sampling.ignore_eos)
        text, stopped = ("", False) if ends else self.stops.push(self.decoder.push(token.id))
        finish = FinishReason.stop if ends or stopped else None
        if finish is None and len(self.state.generated_ids) >= sampling.max_new_tokens:
            finish = FinishReason.length
        if finish is not None and not stopped:
            last, stopped = self.stops.push(self.decoder.finish())
            text += last + ("" if stopped else self.stops.finish())
        self.next_ids = [token.id]
        return Delta(request=self.number, choice=self.choice, tokens=[token], text=text, prompt=prompt, finish=finish)
