"""The domains by which a run's figures are shown, their order and their colours.

Invariant: they come from the blend and from what was measured, so each corpus has its own. The colour of a domain
depends on its place in that order, so a run's panels agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nemotron4_data.blend import BlendConfig
from nemotron4_eval.heldout.text import RESERVED_DOMAINS, domain_of

OVERALL = "overall"
INK = "#222222"
PALETTE = ("#2a6fbb", "#d1701f", "#3a8f4d", "#7a3f9c", "#1d9a9a", "#c2548f", "#8a7a1f", "#8c564b")


def ordered_domains(blend: BlendConfig, measured: Iterable[Mapping[str, Any]]) -> list[str]:
    """`overall`, the domains of the blend in its order, then by name those that were measured but are not in it.

    `measured` are rows of validation.csv, or bits per byte by domain.
    """
    drawn = [domain_of(key) for each in blend.distributions.values() for key in each.weights]
    others = {name for row in measured for name in row} - set(RESERVED_DOMAINS)
    return list(dict.fromkeys([OVERALL, *drawn, *sorted(others)]))


def domain_colours(domains: Sequence[str]) -> dict[str, str]:
    """A colour for each domain, by its place; the palette repeats."""
    parts = [name for name in domains if name != OVERALL]
    return {OVERALL: INK} | {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(parts)}
