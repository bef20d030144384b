"""Fits the planner's constants on the fitted rows of published.yaml: `python -m nemotron4_train.estimates.calibration`.

Least squares of the logarithm of predicted over published seconds, by Gauss-Newton steps with differences: three
constants, sixteen rows.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from nemotron4_train.estimates.published import PublishedStep, published_steps
from nemotron4_train.estimates.reached import Reached

FITTED = ("products", "tensor_overlap", "per_doubling")
_STEPS, _DIFFERENCE = 8, 1e-4


def calibrated() -> Reached:
    """The constants that fit best, from a start that does not depend on the shipped ones."""
    rows = [step for step in published_steps() if step.is_fitted]
    values = np.array([0.6, 0.3, 0.01])
    for _ in range(_STEPS):
        errors = _errors(values, rows)
        slopes = [(_errors(values + change, rows) - errors) / _DIFFERENCE for change in np.eye(3) * _DIFFERENCE]
        values -= np.linalg.lstsq(np.array(slopes).T, errors, rcond=None)[0]
    return _reached(values)


def _errors(values: np.ndarray, rows: list[PublishedStep]) -> np.ndarray:
    reached = _reached(values)
    return np.array([math.log(step.predicted_seconds(reached) / step.seconds) for step in rows])


def _reached(values: np.ndarray) -> Reached:
    return replace(Reached(), **dict(zip(FITTED, values.tolist(), strict=True)))


if __name__ == "__main__":
    best = calibrated()
    for name in FITTED:
        print(f"{name}: {getattr(best, name):.4g} (shipped: {getattr(Reached(), name):.4g})")
