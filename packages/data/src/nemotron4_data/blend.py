"""Blends: weights of domains and categories become one weight per source; how many epochs that amounts to.

A source is a path such as `english/web`, or deeper (`english/web/part-1`); a weight key is a source or a folder of
sources. Invariant: every source belongs to exactly one weight key, the longest that names it or a folder above it, and
the weights of a key's sources sum to the weight of the key.

Sources: Nemotron-4 15B Technical Report, arXiv 2402.16819, section 2 (70 % English, 15 % multilingual, 15 % code; a
second distribution for continued training); sampling within a key by size to a power is that of XLM-R, arXiv
1911.02116, section 3.1; UniMax is algorithm 1 of arXiv 2304.09151; the default cap on epochs is from "Scaling
Data-Constrained Language Models", arXiv 2305.16264, section 6: up to four epochs are nearly as good as new data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from nemotron4_common.rules import require

_TOLERANCE = 1e-6


@dataclass(kw_only=True)
class Sampling:
    """How the sources of a key share its weight."""

    exponent: float | None = None
    """Sources share in proportion to tokens**exponent: 1 is by size, 0 is equal shares. A temperature T is the exponent
    1/T."""
    unimax_epochs: float | None = None
    """Equal shares, but no source is read for more than this many epochs of the timeline (UniMax)."""


@dataclass(kw_only=True)
class Distribution:
    """How often each kind of text is drawn. A key is a domain (`english`) or a source (`english/books`)."""

    weights: dict[str, float]
    """Share of the tokens that each key gets, of a total of 1. A domain stands for those of its sources that no other
    key names."""
    sampling: dict[str, Sampling] = field(default_factory=dict)
    """How the sources of a key share its weight; those of a key that is not listed share by size."""


@dataclass(kw_only=True)
class BlendConfig:
    """The distributions that a timeline's phases name."""

    distributions: dict[str, Distribution]
    """Distributions by name, such as `pretraining`; phases refer to them."""
    max_epochs: float = 4.0
    """Most epochs of any source; a timeline that reads one more often is refused."""

    def __post_init__(self) -> None:
        require(bool(self.distributions), "blend.distributions", "{}", "must hold at least one distribution")
        for name, distribution in self.distributions.items():
            check_distribution(distribution, f"blend.distributions.{name}")
        require(self.max_epochs > 0, "blend.max_epochs", self.max_epochs, "must be greater than 0")


@dataclass(frozen=True)
class EpochsRow:
    """One source over a timeline: its training tokens, the tokens each phase draws, and the resulting epochs."""

    source: str
    num_tokens: int
    drawn_tokens: list[float]

    @property
    def epochs(self) -> float:
        """How many times its tokens are seen over the whole timeline."""
        return sum(self.drawn_tokens) / self.num_tokens


def check_distribution(distribution: Distribution, key: str) -> None:
    """ValueError, naming the dotted `key`, unless weights sum to 1 and sampling belongs to weights."""
    for name, weight in distribution.weights.items():
        require(0 <= weight <= 1, f"{key}.weights.{name}", weight, "must lie in [0, 1]; correct it")
    total = sum(distribution.weights.values())
    if abs(total - 1) > _TOLERANCE:
        raise ValueError(f"{key}.weights: must sum to 1, but sum to {total:.9g}; correct them")
    for name, sampling in distribution.sampling.items():
        if name not in distribution.weights:
            raise ValueError(f"{key}.sampling.{name}: has no weight; add {key}.weights.{name} or remove it")
        _check_sampling(sampling, f"{key}.sampling.{name}")


def _check_sampling(sampling: Sampling, key: str) -> None:
    if (sampling.exponent is None) == (sampling.unimax_epochs is None):
        raise ValueError(f"{key}: must hold either exponent or unimax_epochs; write for example {{exponent: 0.5}}")
    exponent, epochs = sampling.exponent, sampling.unimax_epochs
    rule = "must lie in [0, 1]; 1 is by size, 0 is equal shares"
    require(exponent is None or 0 <= exponent <= 1, f"{key}.exponent", exponent, rule)
    require(epochs is None or epochs > 0, f"{key}.unimax_epochs", epochs, "must be greater than 0")


def expand(
    distribution: Distribution, num_train_tokens: Mapping[str, int], num_tokens: int, key: str = "distribution"
) -> dict[str, float]:
    """Weight of each source of a corpus, summing to 1; sources that no key names get none.

    `num_tokens` is what the timeline draws with this distribution, the budget of UniMax. `key` is the dotted name used
    in errors. ValueError if a key with positive weight has no source left, or too few tokens for UniMax.
    """
    check_distribution(distribution, key)
    claimed = _claims(distribution.weights, num_train_tokens, key)
    expanded: dict[str, float] = {}
    for name, weight in distribution.weights.items():
        sizes = {source: num_train_tokens[source] for source in claimed[name]}
        sampling = distribution.sampling.get(name, Sampling(exponent=1.0))
        if sampling.exponent is not None:
            shares = {source: float(size) ** sampling.exponent for source, size in sizes.items()}
        else:
            assert sampling.unimax_epochs is not None
            shares = _unimax(sizes, weight * num_tokens, sampling.unimax_epochs, f"{key}.sampling.{name}")
        total = sum(shares.values())
        expanded |= {source: weight * share / total for source, share in shares.items()}
    return dict(sorted(expanded.items()))


def _unimax(sizes: Mapping[str, int], budget: float, max_epochs: float, key: str) -> dict[str, float]:
    """Tokens to draw from each source: the budget in equal parts, smallest source first, none beyond its epochs."""
    if budget > max_epochs * sum(sizes.values()):
        raise ValueError(
            f"{key}.unimax_epochs ({max_epochs:g}): the timeline draws {budget:,.0f} tokens from this key, "
            f"{budget / sum(sizes.values()):.2f} epochs of all its sources; lower its weight, shorten the schedule, "
            f"add text, or raise unimax_epochs"
        )
    drawn: dict[str, float] = {}
    for number, (source, size) in enumerate(sorted(sizes.items(), key=lambda item: (item[1], item[0]))):
        drawn[source] = min((budget - sum(drawn.values())) / (len(sizes) - number), max_epochs * size)
    return drawn


def check_sources(blend: BlendConfig, train_sizes: Mapping[str, int]) -> None:
    """ValueError if a key of any distribution has no source left; sizes may be in any unit."""
    for name, distribution in blend.distributions.items():
        _claims(distribution.weights, train_sizes, f"blend.distributions.{name}")


def blend_facts(blend: BlendConfig, sizes: dict[str, int]) -> dict[str, Any]:
    """Weight and epochs of each source if the first distribution draws as many tokens as the corpus has."""
    name, distribution = next(iter(blend.distributions.items()))
    total = sum(sizes.values())
    weights = expand(distribution, sizes, total, f"blend.distributions.{name}")
    rows = {
        source: {"weight": weight, "epochs": weight * total / max(1, sizes[source])}
        for source, weight in weights.items()
    }
    return {"name": name, "tokens": total, "sources": rows}


def _claims(keys: Mapping[str, float], sources: Mapping[str, int], distribution: str) -> dict[str, list[str]]:
    """The sources each key covers: a source belongs to the longest key that names it or a folder above it.

    ValueError for a key that covers none.
    """
    claimed: dict[str, list[str]] = {key: [] for key in keys}
    for source, size in sources.items():
        owners = [key for key in keys if source == key or source.startswith(f"{key}/")]
        if size and owners:
            claimed[max(owners, key=len)].append(source)
    for key, weight in keys.items():
        if not claimed[key]:
            domains = sorted({source.split("/")[0] for source in sources})
            known = ", ".join(sorted(sources) if len(sources) < 20 else domains)
            raise ValueError(
                f"{distribution}.weights.{key} ({weight}): matches no source of the corpus that no other key names; "
                f"remove it or name one of {known}"
            )
    return claimed


def phase_weights(
    blend: BlendConfig, phases: Sequence[tuple[str, int]], num_train_tokens: Mapping[str, int]
) -> list[dict[str, float]]:
    """Weights of the sources in each phase of a whole timeline, given as (distribution, tokens).

    Phases with the same distribution have the same weights. ValueError as from `expand`, and for a source that the
    timeline would read more than `blend.max_epochs` times.
    """
    budgets: dict[str, int] = defaultdict(int)
    for name, tokens in phases:
        budgets[name] += tokens
    expanded = {
        name: expand(blend.distributions[name], num_train_tokens, tokens, f"blend.distributions.{name}")
        for name, tokens in budgets.items()
    }
    rows = epochs_table([(tokens, expanded[name]) for name, tokens in budgets.items()], num_train_tokens)
    worst = max(rows, key=lambda row: row.epochs)
    if worst.epochs > blend.max_epochs * (1 + _TOLERANCE):
        others = sum(row.epochs > blend.max_epochs for row in rows) - 1
        raise ValueError(
            f"blend.max_epochs ({blend.max_epochs:g}): the timeline would read {worst.source} {worst.epochs:.2f} times "
            f"({sum(worst.drawn_tokens):,.0f} tokens of {worst.num_tokens:,})"
            f"{f' and {others} other source(s) too often' if others > 0 else ''}; "
            f"lower its weight, shorten the schedule, add text, or raise blend.max_epochs"
        )
    return [expanded[name] for name, _ in phases]


def epochs_table(
    phases: Sequence[tuple[float, Mapping[str, float]]], num_train_tokens: Mapping[str, int]
) -> list[EpochsRow]:
    """One row per source over phases given as (tokens, weight of each source)."""
    return [
        EpochsRow(source, size, [tokens * weights.get(source, 0.0) for tokens, weights in phases])
        for source, size in sorted(num_train_tokens.items())
        if size
    ]


def render_epochs(rows: Sequence[EpochsRow]) -> Table:
    """The rows as a table for a terminal."""
    table = Table("source", title="epochs over the timeline")
    num_phases = len(rows[0].drawn_tokens) if rows else 0
    headings = ["tokens", *(f"drawn in phase {number}" for number in range(num_phases)), "epochs"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        drawn = [f"{tokens:,.0f}" for tokens in row.drawn_tokens]
        table.add_row(row.source, f"{row.num_tokens:,}", *drawn, f"{row.epochs:.2f}")
    return table
