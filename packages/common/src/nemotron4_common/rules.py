"""Rules for settings: the error that a broken rule raises, and the one rule that all numbers obey.

An error that users see is one line: `key (value): rule; way out`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise ValueError, `key (value): rule`, unless the condition holds; the rule may end with the way out."""
    if not condition:
        raise ValueError(f"{key} ({value}): {rule}")


def nearest(value: int, choices: Iterable[int]) -> str:
    """The choices next to a value, below it and above it, as a rule's way out names them: `4, 8`."""
    known = set(choices)
    below = max((number for number in known if number <= value), default=None)
    above = min((number for number in known if number >= value), default=None)
    return ", ".join(str(number) for number in dict.fromkeys((below, above)) if number is not None)


def divisors(number: int) -> list[int]:
    """Those of a number, the smallest first."""
    small = [part for part in range(1, math.isqrt(number) + 1) if number % part == 0]
    return sorted({*small, *(number // part for part in small)})


def check_finite(value: Any, key: str = "") -> None:
    """Raise ValueError, with the dotted key below `key`, for NaN or infinity anywhere in a configuration.

    It checks a whole job at once, because NaN can pass the comparisons that check single fields.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} ({value}): must be a finite number; give one")
    within: Mapping[Any, Any] = {}
    if is_dataclass(value):
        within = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, Mapping):
        within = value
    elif isinstance(value, list | tuple):
        within = dict(enumerate(value))
    for name, part in within.items():
        check_finite(part, f"{key}.{name}" if key else str(name))
