"""How much of each group of documents is taken, and which documents, to reach a target; small groups are taken whole.

Invariant: whether a document is taken depends only on its id and the sizes of the groups.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Group(NamedTuple):
    """Documents of one source (domain/category) from one row of the table of sources."""

    source: str
    row: str

    @property
    def domain(self) -> str:
        """First half of the source."""
        return self.source.split("/")[0]


def fill(sizes: Mapping[K, float], target: float, weights: Mapping[K, float]) -> dict[K, float]:
    """Amounts that sum to `target`: in proportion to the weights, but none above its size.

    If the sizes sum to less than the target, everything is taken.
    """
    amounts: dict[K, float] = {}
    left, left_weight = target, sum(weights.values())
    for key in sorted(sizes, key=lambda k: (sizes[k] / weights[k], str(k))):
        amounts[key] = min(sizes[key], left * weights[key] / left_weight if left > 0 else 0.0)
        left -= amounts[key]
        left_weight -= weights[key]
    return amounts


def kept_shares(
    sizes: Mapping[Group, float], targets: Mapping[str, float], row_weights: Mapping[str, float], exponent: float
) -> dict[Group, float]:
    """The share of each group's bytes that is taken: domain -> category -> row, each by weight x size**exponent.

    English is filled by row directly: its categories are kinds of text and have no claim to equal amounts.
    """
    shares: dict[Group, float] = {}
    for domain, target in targets.items():
        members: dict[str, dict[Group, float]] = defaultdict(dict)
        for group, size in sizes.items():
            if group.domain == domain:
                members["" if domain == "english" else group.source][group] = size
        totals = {category: sum(groups.values()) for category, groups in members.items()}
        amounts = fill(totals, target, {category: size**exponent for category, size in totals.items()})
        for category, groups in members.items():
            weights = {group: row_weights[group.row] * size**exponent for group, size in groups.items()}
            taken = fill(groups, amounts[category], weights)
            shares |= {group: taken[group] / size for group, size in groups.items()}
    return shares


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends only on the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
