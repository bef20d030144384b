"""Checks that the configurations of curation share; each raises a one-line ValueError with the dotted key."""

from __future__ import annotations

from typing import Any

_CODE = "code"


def refuse_code(step: str, domains: list[str], reason: str) -> None:
    """Check that a step for prose does not list the domain `code`."""
    if _CODE in domains:
        raise ValueError(f"curation.{step}.domains ({domains}) must not name {_CODE}: {reason}")


def check_range(step: str, config: Any, name: str, low: float, high: float) -> None:
    """Check that the field lies in [low, high]."""
    value = getattr(config, name)
    if not low <= value <= high:
        rule = f"be at least {low}" if high == float("inf") else f"lie in [{low}, {high}]"
        raise ValueError(f"curation.{step}.{name} ({value}) must {rule}")


def check_order(step: str, config: Any, low: str, high: str) -> None:
    """Check that the field `low` is not negative and not above the field `high`."""
    if not 0 <= getattr(config, low) <= getattr(config, high):
        raise ValueError(
            f"curation.{step}.{low} ({getattr(config, low)}) must lie in [0, {high}={getattr(config, high)}]"
        )
