"""From logits to tokens: the state that each choice of a request carries from step to step.

Shapes: S sequences, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .config import SamplingConfig
from .distribution import draw


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
    """Ids of this and above have no piece and are never chosen."""
    logprobs: int | None = None
    """How many alternatives to report with each token; 0 reports only the token's own, None nothing."""
    prompt_ids: Sequence[int] = ()
    """The prompt, for the repetition penalty."""
    generated_ids: list[int] = field(default_factory=list)
    """The ids chosen so far; the number of the next draw is their count."""


def choose(logits_SV: Tensor, states: Sequence[SamplerState]) -> list[ChosenToken]:
    """The next token of each sequence, which is appended to its state.

    A token depends on its own row of the logits and its own state alone, not on the other rows.
    """
    chosen = []
    for logits_V, state in zip(logits_SV, states, strict=True):
        seed = hash((state.sampling.seed, state.choice, len(state.generated_ids))) % 2**63
        generator = torch.Generator().manual_seed(seed)
        token = int(draw(logits_V[None, : state.vocab_size], state.sampling, generator))
        state.generated_ids.append(token)
        chosen.append(ChosenToken(token))
    return chosen


def logprobs_of(logits_TV: Tensor, next_ids: Sequence[int], top: int) -> list[ChosenToken]:
    """Log-probabilities of tokens that are given: row t of the logits predicts next_ids[t]. `top` alternatives each."""
    logprobs_TV = logits_TV.float().log_softmax(-1)
    values, ids = logprobs_TV.topk(top, dim=-1)
    own = logprobs_TV.gather(1, torch.tensor(next_ids, device=logits_TV.device)[:, None])[:, 0].tolist()
    return [
        ChosenToken(token, logprob, tuple(zip(row_ids, row, strict=True)))
        for token, logprob, row_ids, row in zip(next_ids, own, ids.tolist(), values.tolist(), strict=True)
    ]
