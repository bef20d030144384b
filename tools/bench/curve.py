"""How a time grows with a size."""

import math
from collections.abc import Sequence
from typing import Any


def curve(sizes: Sequence[float], seconds: Sequence[float], unit: str) -> dict[str, Any]:
    """Points and the exponent of the power law through them (least squares of logarithms): 1 is linear."""
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)
    points = [{"size": size, "seconds": round(second, 6)} for size, second in zip(sizes, seconds, strict=True)]
    return {"unit": unit, "points": points, "exponent": round(slope, 3)}
