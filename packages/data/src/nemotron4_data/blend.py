"""Blends: from weights of domains and categories to one weight for each source.

Invariant: every source belongs to exactly one weight key, the most specific that names it, and the weights of the
sources of a key sum to the weight of the key.

Source: Nemotron-4 15B Technical Report, arXiv 2402.16819, section 2 (70 % English, 15 % multilingual, 15 % code; a
second distribution for continued training); sampling within a key by size to a power is that of XLM-R, arXiv
1911.02116, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

_TOLERANCE = 1e-6


@dataclass(kw_only=True)
class Distribution:
    """How often each kind of text is drawn. A key is a domain (`english`) or a source (`english/books`)."""

    weights: dict[str, float]
    """Share of the tokens of each key; they sum to 1. A domain means its sources that no other key names."""
    exponents: dict[str, float] = field(default_factory=dict)
    """Sources of a key share its weight by tokens**exponent; 1 (by size) where a key is not listed."""


@dataclass(kw_only=True)
class BlendConfig:
    """The distributions that a timeline's phases name."""

    distributions: dict[str, Distribution]
    """Distributions by name, as in pretraining."""

    def __post_init__(self) -> None:
        if not self.distributions:
            raise ValueError("blend.distributions ({}) must hold at least one distribution")
        for name, distribution in self.distributions.items():
            check_distribution(distribution, f"blend.distributions.{name}")


@dataclass(frozen=True)
class EpochsRow:
    """One source over a timeline: its training tokens, the tokens each phase draws, and the epochs that makes."""

    source: str
    num_tokens: int
    drawn_tokens: list[float]

    @property
    def epochs(self) -> float:
        """Times its tokens are seen over the whole timeline."""
        return sum(self.drawn_tokens) / self.num_tokens


def check_distribution(distribution: Distribution, key: str) -> None:
    """ValueError, naming the dotted `key`, unless weights sum to 1 and exponents belong to weights."""
    for name, weight in distribution.weights.items():
        if not 0 <= weight <= 1:
            raise ValueError(f"{key}.weights.{name} ({weight}) must lie in [0, 1]: correct it")
    total = sum(distribution.weights.values())
    if abs(total - 1) > _TOLERANCE:
        raise ValueError(f"{key}.weights must sum to 1, but sum to {total:.9g}: correct them")
    for name, exponent in distribution.exponents.items():
        if name not in distribution.weights:
            raise ValueError(
                f"{key}.exponents.{name} ({exponent}) has no weight: add {key}.weights.{name} or remove it"
            )
        if not 0 <= exponent <= 1:
            raise ValueError(f"{key}.exponents.{name} ({exponent}) must lie in [0, 1]: 1 is by size, 0 is all alike")


def expand(
    distribution: Distribution, num_train_tokens: Mapping[str, int], key: str = "distribution"
) -> dict[str, float]:
    """Weight of each source of a corpus, summing to 1; sources that no key names get none.

    `key` is the dotted name used in errors. ValueError when a key of a positive weight has no source left.
    """
    check_distribution(distribution, key)
    expanded: dict[str, float] = {}
    for name, weight in distribution.weights.items():
        claimed = _claimed(name, distribution.weights, num_train_tokens)
        if not claimed:
            domains = sorted({source.split("/")[0] for source in num_train_tokens})
            known = ", ".join(sorted(num_train_tokens) if len(num_train_tokens) < 20 else domains)
            raise ValueError(
                f"{key}.weights.{name} ({weight}) matches no source of the corpus that no other key names: "
                f"remove it or name one of {known}"
            )
        exponent = distribution.exponents.get(name, 1.0)
        sizes = {source: float(num_train_tokens[source]) ** exponent for source in claimed}
        total = sum(sizes.values())
        expanded |= {source: weight * size / total for source, size in sizes.items()}
    return dict(sorted(expanded.items()))


def _claimed(name: str, keys: Mapping[str, float], sources: Mapping[str, int]) -> list[str]:
    """The sources a key speaks for: itself, or the sources of its domain that no key names exactly."""
    if "/" in name:
        return [name] if sources.get(name, 0) else []
    return [source for source, size in sources.items() if size and source.split("/")[0] == name and source not in keys]


def epochs_table(
    phases: Sequence[tuple[float, Mapping[str, float]]], num_train_tokens: Mapping[str, int]
) -> list[EpochsRow]:
    """One row a source over phases given as (tokens, weight of each source)."""
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
