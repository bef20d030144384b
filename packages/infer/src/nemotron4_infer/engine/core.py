"""The engine's synchronous core: no clock, no thread, no I/O.

Invariant: what a choice gets does not depend on what else runs; a fault ends the sequences that it concerns, frees
their pages, and leaves the others as they are.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from nemotron4_common.rules import require
from nemotron4_data import Tokenizer
from nemotron4_infer.engine.batch import Span, StepRunner
from nemotron4_infer.engine.continuation import Continuation, Guesser
from nemotron4_infer.engine.request import Delta, FinishReason, Request
from nemotron4_infer.engine.scheduler import Scheduler, Sequence
from nemotron4_infer.engine.statistics import STEP_TOKENS, Statistics
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.lookup import Lookup
from nemotron4_infer.sampling.choose import ChoiceError, ChosenToken, choose, logprobs_of
from nemotron4_infer.sampling.grammar import JsonSchemas

MAX_GUESSING = 4
"""Most running sequences with which guessing pays: the rows of guesses then cost little beside reading the weights."""

MAX_ERROR_CHARACTERS = 500


class QueueFullError(Exception):
    """engine.max_running sequences run and engine.max_waiting wait already."""


class Engine:
    """Many requests on one model. Not thread-safe: one thread calls it, but `check` may be called from any."""

    def __init__(
        self,
        runner: StepRunner,
        tokenizer: Tokenizer,
        config: EngineConfig,
        *,
        fingerprint: str = "",
        make_guesser: Callable[[], Guesser] = Lookup,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """An engine on a runner; build.py makes both from a model directory.

        `fingerprint` names the weights and their format; `make_guesser` is used with engine.prompt_lookup,
        and `on_close` ends what was started for the runner.
        """
        self.runner, self.tokenizer, self.config, self.fingerprint = runner, tokenizer, config, fingerprint
        self.max_sequence_length = runner.max_sequence_length
        rule = f"must be at least {runner.page_tokens}, the tokens of a page"
        require(runner.num_pages >= 1, "engine.cache_tokens", config.cache_tokens, rule)
        step_tokens = config.most_step_tokens(runner.page_tokens, on_gpu=runner.is_paged)
        self._scheduler = Scheduler(runner, max_running=config.max_running, step_tokens=step_tokens)
        self._active: dict[int, Continuation] = {}
        self._requests: dict[int, list[Sequence]] = {}
        self._next_number, self._keys = 0, count()
        self._counts = Statistics()
        self.begun: list[tuple[int, int]] = []
        """(number, choice) of what the last step was the first to compute."""
        self._schemas = JsonSchemas(tokenizer)
        self._make_guesser = make_guesser if config.prompt_lookup else None
        self._on_close = on_close

    def close(self) -> None:
        """End the engine, which must no longer be used: other processes of engine.tensor end too."""
        on_close, self._on_close = self._on_close, lambda: None
        on_close()

    def check(self, request: Request) -> None:
        """Raise ValueError, one line, for a request that can never run. May be called from any thread."""
        ids, longest, vocab_size = request.prompt_ids, self.max_sequence_length, self.tokenizer.vocab_size
        require(len(ids) > 0, "prompt", "''", "must have at least one token")
        wanted, value = _capacity(request), f"{len(ids)} + {request.sampling.max_new_tokens} tokens"
        rule = f"must fit in the model's context of {longest} tokens"
        require(wanted <= longest, "prompt + max_new_tokens", value, rule)
        tokens = self.runner.num_pages * self.runner.page_tokens
        rule = f"must fit in the cache of {tokens} tokens; raise engine.cache_tokens"
        require(wanted <= tokens, "prompt + max_new_tokens", value, rule)
        for key, named in (
            ("prompt", ids),
            ("sampling.stop_token_ids", request.sampling.stop_token_ids),
            ("sampling.logit_bias", request.sampling.logit_bias),
        ):
            bad = next((token for token in named if not 0 <= token < vocab_size), None)
            require(bad is None, key, f"id {bad}", f"must be in [0, {vocab_size})")
        most = self.config.max_running + self.config.max_waiting
        rule = f"must be from 1 to {most}, engine.max_running + engine.max_waiting"
        require(1 <= request.choices <= most, "choices", request.choices, rule)
        for key in ("logprobs", "prompt_logprobs"):
            value = getattr(request, key)
            require(value is None or 0 <= value <= vocab_size, key, value, f"must be in [0, {vocab_size}]")
        if request.json_schema is not None:
            self._schemas.check(request.json_schema)

    def add(self, request: Request, number: int | None = None) -> int:
        """Take a request that `check` accepts; returns its number, the given one or the next. QueueFullError if full.

        A number may not be used twice.
        """
        most = self.config.max_running + self.config.max_waiting
        if len(self._active) + request.choices > most:
            raise QueueFullError
        number = self._next_number if number is None else number
        assert number not in self._requests
        root = request.salt if self.config.prefix_cache else number if request.choices > 1 else None
        sequences = [
            Sequence(
                key=next(self._keys),
                request=number,
                prompt_ids=request.prompt_ids,
                capacity=_capacity(request),
                root=root,
                scores_prompt=request.prompt_logprobs is not None,
            )
            for _ in range(request.choices)
        ]
        texts = [Continuation(request, number, choice, self.tokenizer) for choice in range(request.choices)]
        if request.json_schema is not None:
            for text in texts:
                text.state.grammar = self._schemas.grammar(request.json_schema)
        if self._make_guesser is not None and _can_guess(request):
            for text in texts:
                text.guesser = self._make_guesser()
        self._next_number = max(self._next_number, number + 1)
        self._active.update((sequence.key, text) for sequence, text in zip(sequences, texts, strict=True))
        self._requests[number] = sequences
        self._scheduler.waiting.extend(sequences)
        return number

    def cancel(self, number: int) -> None:
        """End a request, whose choices get no further Delta. A number that is not known, or done, is ignored."""
        for sequence in tuple(self._requests.get(number, ())):
            self._end(sequence, FinishReason.cancelled)

    def abort(self, error: Exception) -> list[Delta]:
        """End all requests with an error, after a fault in the engine itself; returns their last Deltas."""
        self._counts.failed_steps += 1
        sequences = [sequence for request in self._requests.values() for sequence in request]
        return [self._fail(sequence, error) for sequence in sequences]

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self._active)

    def statistics(self) -> Statistics:
        """What runs and waits now, and what was done since the engine was built."""
        scheduler, pool = self._scheduler, self._scheduler.pool
        waiting = len(scheduler.waiting)
        return replace(
            self._counts,
            running=scheduler.num_running,
            waiting=waiting,
            waiting_for_pages=waiting if scheduler.is_short_of_pages else 0,
            pages_free=pool.num_free,
            pages_cached=pool.num_cached,
            pages_running=pool.num_running,
            prefix_queried_tokens=scheduler.num_queried_tokens,
            prefix_hit_tokens=scheduler.num_hit_tokens,
            step_sizes=list(self._counts.step_sizes),
            finished=dict(self._counts.finished),
        )

    def step(self) -> list[Delta]:
        """Compute one step; returns what it added to each choice. A fault in it is answered, not raised."""
        self.begun = []
        deltas = [self._fail(sequence, error) for sequence, error in self._scheduler.admit()]
        plan = self._scheduler.plan()
        self._note_plan(plan)
        if not plan:
            self._counts.failed_steps += bool(deltas)
            return deltas
        try:
            self._compute(plan)
        except Exception as error:  # whatever failed, the requests of this step say so, and the others go on
            self._counts.failed_steps += 1
            return deltas + [self._fail(sequence, error) for sequence, _ in plan]
        self._counts.failed_steps = 0
        deltas += [self._conclude(sequence, span) for sequence, span in plan]
        return [delta for delta in deltas if delta.tokens or delta.finish or delta.prompt is not None]

    def _note_plan(self, plan: list[tuple[Sequence, Span]]) -> None:
        first = [sequence for sequence, span in plan if span.is_prefill and span.begin == sequence.num_cached]
        self.begun = [(sequence.request, self._active[sequence.key].choice) for sequence in first]
        if plan:
            num_tokens = sum(len(span.token_ids) for _, span in plan)
            self._counts.computed_tokens += num_tokens
            self._counts.step_sizes[bisect_left(STEP_TOKENS, num_tokens)] += 1

    @torch.inference_mode()
    def _compute(self, plan: list[tuple[Sequence, Span]]) -> None:
        """Run the step and choose tokens: one for each sequence, and one more for each guess that was right."""
        choosing: list[tuple[Continuation, Span, Tensor]] = []
        for (sequence, span), logits_TV in zip(plan, self.runner.run([span for _, span in plan]), strict=True):
            text = self._active[sequence.key]
            if span.is_prefill and sequence.scores_prompt:
                with self._own_fault(text):
                    self._score(text, span, logits_TV)
            if span.is_prefill and span.begin + len(span.token_ids) < len(sequence.prompt_ids):
                continue
            if text.request.sampling.max_new_tokens == 0:
                text.finish = text.finish or FinishReason.length
            choosing.append((text, span, logits_TV[-1:] if span.is_prefill else logits_TV))
        for row in count():
            choosing = [item for item in choosing if item[0].finish is None]
            self._choose([(text, logits_TV[row]) for text, _, logits_TV in choosing])
            # The token of the next row follows a guess, and counts if that guess is what was chosen.
            choosing = [
                (text, span, logits_TV)
                for text, span, logits_TV in choosing
                if row + 1 < len(logits_TV) and text.token_ids[-1] == span.token_ids[row + 1]
            ]
            if not choosing:
                return

    def _choose(self, rows: list[tuple[Continuation, Tensor]]) -> None:
        """Choose the next token of each; a choice for which there is none ends by a fault of its own."""
        while rows:
            try:
                tokens = choose(torch.stack([logits_V for _, logits_V in rows]), [text.state for text, _ in rows])
            except ChoiceError as error:
                for row, reason in error.reasons.items():
                    rows[row][0].fail(self._note(reason))
                rows = [(text, logits_V) for text, logits_V in rows if text.finish is None]
                continue
            for (text, _), token in zip(rows, tokens, strict=True):
                with self._own_fault(text):
                    text.take(token)
            return

    def _score(self, text: Continuation, span: Span, logits_TV: Tensor) -> None:
        """Add the log-probabilities of the tokens that follow those of a span of the prompt."""
        request = text.request
        assert request.prompt_logprobs is not None
        text.scored = text.scored or [ChosenToken(request.prompt_ids[0])]
        next_ids = request.prompt_ids[span.begin + 1 : span.begin + len(span.token_ids) + 1]
        rows_TV = logits_TV[: len(next_ids), : self.tokenizer.vocab_size]
        text.scored += logprobs_of(rows_TV, next_ids, request.prompt_logprobs)
        if len(text.scored) == len(request.prompt_ids):
            for sequence in self._requests[text.number]:
                sequence.scores_prompt = False  # its siblings need not compute it again
                self._active[sequence.key].prompt = text.scored

    def _conclude(self, sequence: Sequence, span: Span) -> Delta:
        """Keep what a span computed, forget guesses that were wrong, and end or prepare the sequence."""
        text = self._active[sequence.key]
        if text.finish is not FinishReason.error:
            with self._own_fault(text):
                self._scheduler.computed(sequence, span)
                if span.is_prefill and sequence.num_missing == 0:
                    self._counts.prompt_tokens += len(sequence.prompt_ids)
                if not span.is_prefill:
                    self._count_guesses(text, span)
                if text.finish is None and sequence.num_missing == 0:
                    self._scheduler.truncate(sequence, len(text.token_ids) - 1)
                    sequence.next_ids = [text.token_ids[-1], *self._guess(text)]
        delta = text.delta(sequence.num_cached)
        self._counts.generated_tokens += len(delta.tokens)
        if text.finish is not None:
            self._end(sequence, text.finish)
        return delta

    def _guess(self, text: Continuation) -> list[int]:
        if text.guesser is None or self._scheduler.num_running > MAX_GUESSING:
            return []
        left = text.request.sampling.max_new_tokens - text.num_generated
        return text.guesser.propose(text.token_ids)[: left - 1]

    def _count_guesses(self, text: Continuation, span: Span) -> None:
        drafted, accepted = len(span.token_ids) - 1, len(text.token_ids) - 1 - span.begin - 1
        if drafted > 0:
            self._counts.drafted_tokens += drafted
            self._counts.accepted_tokens += accepted
            assert text.guesser is not None
            text.guesser.accepted(drafted, accepted)

    def _fail(self, sequence: Sequence, error: Exception) -> Delta:
        """End a sequence by a fault that may concern others too."""
        text = self._active[sequence.key]
        text.fail(self._note(error))
        self._end(sequence, FinishReason.error)
        return text.delta(sequence.num_cached)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        try:
            self._scheduler.end(sequence)
        except Exception as error:  # the runner's close; the pages are free all the same
            self._note(error)
        self._counts.finished[reason] += 1
        del self._active[sequence.key]
        siblings = self._requests[sequence.request]
        siblings.remove(sequence)
        if not siblings:
            del self._requests[sequence.request]

    @contextmanager
    def _own_fault(self, text: Continuation) -> Iterator[None]:
        """A fault in here is that of one choice, and ends it alone."""
        try:
            yield
        except Exception as error:  # its last Delta says what failed
            text.fail(self._note(error))

    def _note(self, error: Exception | str) -> str:
        line = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        line = " ".join(line.split())[:MAX_ERROR_CHARACTERS]
        self._counts.last_error = line
        return line


def _capacity(request: Request) -> int:
    return len(request.prompt_ids) + request.sampling.max_new_tokens


def _can_guess(request: Request) -> bool:
    """Whether the most likely token is taken, without settings that keep it from repeating what it said."""
    sampling = request.sampling
    is_plain = sampling.repetition_penalty == 1 and sampling.presence_penalty == sampling.frequency_penalty == 0
    return sampling.temperature == 0 and is_plain and request.logprobs is None and request.json_schema is None
