"""Checks that the configurations of curation share; each raises a one-line ValueError with the dotted key."""

from __future__ import annotations

from typing import Any

from nemotron4_common.rules import require

_CODE = "code"


def refuse_code(step: str, domains: list[str], reason: str) -> None:
    """Check that a step for prose does not list the domain `code`."""
    require(_CODE not in domains, f"curation.{step}.domains", domains, f"must not name {_CODE}; {reason}")


def check_range(step: str, config: Any, name: str, low: float, high: float) -> None:
    """Check that the field lies in [low, high]."""
    value = getattr(config, name)
    rule = f"must be at least {low}" if high == float("inf") else f"must lie in [{low}, {high}]"
    require(low <= value <= high, f"curation.{step}.{name}", value, rule)


def check_order(step: str, config: Any, low: str, high: str) -> None:
    """Check that the field `low` is not negative and not above the field `high`."""
    least, greatest = getattr(config, low), getattr(config, high)
    require(0 <= least <= greatest, f"curation.{step}.{low}", least, f"must lie in [0, {high}={greatest}]")
