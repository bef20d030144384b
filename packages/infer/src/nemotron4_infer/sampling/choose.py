"""From logits to tokens: the state that each choice of a request carries from step to step.

The order is that of vLLM and transformers: JSON schema, logit_bias, repetition penalty, presence and frequency
penalties, temperature, top_k, top_p, min_p, draw. Log-probabilities are of the model's own distribution, before all of
these.

Invariant: a token depends on its own row of the logits and its own state alone, and the number of its draw on (seed,
choice, step): not on the batch, the device's random generator or torch's version.

Shapes: S sequences, T tokens, V vocabulary.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .config import SamplingConfig
from .distribution import draw, is_filtered, kept_probabilities, uniform
from .grammar import Grammar

LEAST_LOGPROB = -9999.0
"""Log-probabilities are at least this, as in OpenAI's API, so that all are finite."""


class ChoiceError(Exception):
    """Some sequences have no next token: `reasons` says why, in a line each, by their rows."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__("; ".join(f"row {row}: {reason}" for row, reason in reasons.items()))
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token of a text, and, where they were asked for, log-probabilities in nats."""

    id: int
    """Its id."""
    logprob: float | None = None
    """Its own log-probability, before temperature and penalties; None for the first token of a prompt."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely ids and their log-probabilities, the most likely first."""


@dataclass(kw_only=True)
class SamplerState:
    """What the choice of a sequence's next token depends on, beside the logits."""

    sampling: SamplingConfig
    """The request's settings."""
    choice: int
    """Number of this choice in its request; each draws numbers of its own."""
    vocab_size: int
    """Ids of this and above have no piece and are never chosen; one number for all sequences of a call."""
    logprobs: int | None = None
    """How many alternatives to report with each token; 0 reports only the token's own, None nothing."""
    prompt_ids: Sequence[int] = ()
    """The prompt, for the repetition penalty."""
    generated_ids: list[int] = field(default_factory=list)
    """The ids chosen so far; the number of the next draw is their count."""
    grammar: Grammar | None = None
    """What the text must match; None is any text."""
    _counts: Counter[int] = field(default_factory=Counter, repr=False)
    _seen: set[int] = field(default_factory=set, repr=False)

    @property
    def changes_logits(self) -> bool:
        """Whether a grammar, biases or penalties change the model's logits."""
        s = self.sampling
        is_penalised = s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0
        return self.grammar is not None or bool(s.logit_bias) or is_penalised

    def change_logits(self, logits_V: Tensor) -> None:
        """Apply grammar, biases and penalties in place. ValueError, one line, if the grammar fails."""
        s, device = self.sampling, logits_V.device
        if self.grammar is not None:
            logits_V.masked_fill_(torch.from_numpy(~self.grammar.allowed()).to(device), -math.inf)
        if s.logit_bias:
            logits_V[list(s.logit_bias)] += torch.tensor(list(s.logit_bias.values()), device=device)
        self._count()
        if s.repetition_penalty != 1:
            ids = list(self._seen)
            seen = logits_V[ids]
            logits_V[ids] = torch.where(seen > 0, seen / s.repetition_penalty, seen * s.repetition_penalty)
        if self._counts and (s.presence_penalty != 0 or s.frequency_penalty != 0):
            penalties = [s.presence_penalty + s.frequency_penalty * count for count in self._counts.values()]
            logits_V[list(self._counts)] -= torch.tensor(penalties, device=device)

    def accept(self, token: int) -> None:
        """Append the chosen token."""
        self.generated_ids.append(token)
        if self.grammar is not None:
            self.grammar.consume(token)

    def _count(self) -> None:
        if not self._seen:
            self._seen.update(self.prompt_ids)
        fresh = self.generated_ids[self._counts.total() :]
        self._counts.update(fresh)
        self._seen.update(fresh)


@torch.inference_mode()
def choose(logits_SV: Tensor, states: Sequence[SamplerState]) -> list[ChosenToken]:
    """The next token of each sequence, which is appended to its state; of equal logits greedy takes the lowest id.

    ChoiceError, with all states as they were, if a sequence has no next token: its logits are NaN or all -inf, or its
    grammar fails. The caller may end that sequence and choose for the others.
    """
    vocab_size = max((state.vocab_size for state in states), default=0)
    assert all(state.vocab_size == vocab_size for state in states), "one vocabulary"
    logits_SV = logits_SV[:, :vocab_size]
    tokens, reasons = [0] * len(states), {}
    for rows in _alike(states, _rows_at_a_time(logits_SV)):
        is_dense = rows[-1] - rows[0] + 1 == len(rows)
        picked_SV = logits_SV[rows[0] : rows[-1] + 1] if is_dense else logits_SV[rows]
        chunk_SV = picked_SV.to(torch.float32, copy=True)
        for row, logits_V in zip(rows, chunk_SV, strict=True):
            try:
                if states[row].changes_logits:
                    states[row].change_logits(logits_V)
            except ValueError as error:
                reasons[row] = str(error)
        chunk_SV.clamp_(max=torch.finfo(torch.float32).max)
        for row, largest in zip(rows, chunk_SV.amax(-1).tolist(), strict=True):
            if not largest > -math.inf:
                reasons.setdefault(
                    row, "the logits are not a number" if math.isnan(largest) else "no token is possible"
                )
        if not reasons:
            for row, token in zip(rows, _pick(chunk_SV, [states[row] for row in rows]), strict=True):
                tokens[row] = token
    if reasons:
        raise ChoiceError(reasons)
    chosen = []
    for row, (token, state) in enumerate(zip(tokens, states, strict=True)):
        state.accept(token)
        if state.logprobs is None:
            chosen.append(ChosenToken(token))
        else:
            chosen += logprobs_of(logits_SV[row : row + 1], [token], state.logprobs)
    return chosen


def _pick(logits_SV: Tensor, states: Sequence[SamplerState]) -> list[int]:
    samplings = [state.sampling for state in states]
    if samplings[0].temperature == 0:
        # NumPy's argmax is ten times as fast.
        is_cpu = logits_SV.device.type == "cpu"
        greedy: list[int] = (logits_SV.numpy() if is_cpu else logits_SV).argmax(-1).tolist()
        return greedy
    numbers = [uniform(state.sampling.seed, state.choice, len(state.generated_ids)) for state in states]
    uniform_S = torch.tensor(numbers, dtype=torch.float64, device=logits_SV.device)
    drawn: list[int] = draw(kept_probabilities(logits_SV, samplings), uniform_S).tolist()
    return drawn


def _alike(states: Sequence[SamplerState], most: int) -> Iterator[list[int]]:
    """Rows, at most `most` at a time, that are all greedy, all drawn from some tokens or all drawn from all tokens."""
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for row, state in enumerate(states):
        is_drawn = state.sampling.temperature > 0
        kinds.setdefault((is_drawn, is_drawn and is_filtered(state.sampling)), []).append(row)
    for rows in kinds.values():
        yield from (rows[begin : begin + most] for begin in range(0, len(rows), most))


def _rows_at_a_time(logits_SV: Tensor) -> int:
    """How many rows to compute at once: on a CPU so few that they stay in its cache."""
    logits = 1 << 18 if logits_SV.device.type == "cpu" else 1 << 26
    return max(1, logits // max(1, logits_SV.shape[1]))


@torch.inference_mode()
def logprobs_of(logits_TV: Tensor, next_ids: Sequence[int], top: int) -> list[ChosenToken]:
    """Log-probabilities of tokens that are given: row t of the logits predicts next_ids[t]. `top` alternatives each.

    A token that is one of its alternatives has the same number there. ChoiceError if logits are NaN.
    """
    scored = []
    most = _rows_at_a_time(logits_TV)
    for begin in range(0, len(next_ids), most):
        ids = next_ids[begin : begin + most]
        limits = torch.finfo(torch.float32)
        logits_CV = logits_TV[begin : begin + most].float().clamp(limits.min, limits.max)
        logprobs_CV = logits_CV.log_softmax(-1).clamp_(min=LEAST_LOGPROB)
        values_CK, ids_CK = logprobs_CV.topk(min(top, logprobs_CV.shape[1]), dim=-1)
        own_C = logprobs_CV.gather(1, torch.tensor(ids, device=logits_TV.device)[:, None])[:, 0].tolist()
        rows = zip(ids, own_C, ids_CK.tolist(), values_CK.tolist(), strict=True)
        scored += [ChosenToken(token, own, tuple(zip(*row, strict=True))) for token, own, *row in rows]
    reasons = {row: "the logits are not a number" for row, token in enumerate(scored) if math.isnan(token.logprob or 0)}
    if reasons:
        raise ChoiceError(reasons)
    return scored


def mean_logprob(tokens: Sequence[ChosenToken]) -> float:
    """The mean log-probability, in nats, that `best_of` ranks choices by; 0 of no tokens."""
    logprobs = [token.logprob for token in tokens if token.logprob is not None]
    assert len(logprobs) == len(tokens), "asked for log-probabilities"
    return math.fsum(logprobs) / max(1, len(logprobs))
