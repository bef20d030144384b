"""The IsoFLOP study of a sweep: the best size at each budget, and how it grows with the budget.

Approach 2 of Hoffmann et al. (arXiv 2203.15556, section 3.2): a parabola of loss over log N is fitted to the runs of
each budget; the laws N_opt = a C^alpha and D_opt = b C^beta are fitted to their minima, as lines in logarithms.
Invariant: a parabola without a minimum between its smallest and its largest size gives none, and no law uses it.

C is the FLOPs of budget.py. N counts all parameters except the input embedding, which is in no matrix product, so that
C is about 6 N D; leaving the head out too would bend the law (arXiv 2406.19146). D is training tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NotRequired, TypedDict

import numpy as np

from nemotron4_model.config import ModelConfig

FITTED_SIZES = 5
"""Sizes around the best that a parabola is fitted to: further out the loss is not one, and the ends would bias it."""
LEAST_SIZES = 3
LEAST_BUDGETS = 3
CHINCHILLA_TOKENS_PER_PARAMETER = 20
"""The result of arXiv 2203.15556, approaches 1 and 2."""


@dataclass(frozen=True, kw_only=True)
class IsoflopRun:
    """One point of the study."""

    budget_flops: float
    parameters: int
    """All but the input embedding."""
    tokens: int
    bits_per_byte: float
    """Of held-out text, at the end."""


class Minimum(TypedDict):
    """The lowest point of a parabola; its tokens are interpolated between those of the nearest runs."""

    parameters: float
    tokens: float
    bits_per_byte: float


class BudgetFit(TypedDict):
    """The parabola through the runs of one budget."""

    budget_flops: float
    fitted_parameters: list[int]
    """Sizes that it is fitted to, ascending."""
    parabola: list[float] | None
    """Bits per byte over log10 of the parameters: curvature, slope, constant."""
    minimum: Minimum | None
    no_minimum: str | None
    """Why there is none."""


class PowerLaw(TypedDict):
    """coefficient x FLOPs^exponent."""

    coefficient: float
    exponent: float
    leave_one_out: NotRequired[list[float] | None]
    """The smallest and the largest exponent when any one run is left out."""


Law = dict[str, PowerLaw]
"""Best parameters and best tokens: `parameters`, `tokens`."""


class Prediction(TypedDict):
    """A law's value at a budget, and the smallest and the largest when any one run is left out."""

    value: float
    range: list[float] | None


class Placed(TypedDict):
    """A model and its training tokens, beside what the law and Chinchilla would choose for its FLOPs."""

    flops: float
    parameters: int
    tokens: float
    tokens_per_parameter: float
    decades_above_largest_budget: float
    chinchilla: dict[str, float]
    """`parameters`, `tokens`."""
    law: dict[str, Prediction] | None
    """`parameters`, `tokens`."""


class Study(TypedDict):
    """isoflop.json."""

    flops: str
    """What is counted."""
    parameters: str
    """Which are counted."""
    runs: list[dict[str, float]]
    """The fields of IsoflopRun."""
    budgets: list[BudgetFit]
    law: Law | None
    no_law: str | None
    """Why there is none."""
    leave_one_out: dict[str, int]
    """`refits` that gave a law, and how many were `without_law`."""
    nemotron4_15b: Placed


def study(runs: Sequence[IsoflopRun]) -> Study:
    """The content of isoflop.json; a budget without a minimum has `minimum: null` and the reason; so does the law."""
    budgets = [_fit_budget([run for run in runs if run.budget_flops == budget]) for budget in budgets_of(runs)]
    law = _fit_law(budgets, LEAST_BUDGETS)
    without_one = [_fit_without(runs, left_out) for left_out in range(len(runs))] if law else []
    refits = [refit for refit in without_one if refit is not None]
    if law:
        for key, fitted in law.items():
            fitted["leave_one_out"] = _range([refit[key]["exponent"] for refit in refits])
    reason = f"{sum(b['minimum'] is not None for b in budgets)} budgets have a minimum, a law needs {LEAST_BUDGETS}"
    return {
        "flops": "forward and backward, full attention, output head included",
        "parameters": "all but the input embedding",
        "runs": [asdict(run) for run in runs],
        "budgets": budgets,
        "law": law,
        "no_law": None if law else reason,
        "leave_one_out": {"refits": len(refits), "without_law": len(without_one) - len(refits)},
        "nemotron4_15b": _place_15b(law, refits, max(budgets_of(runs))),
    }


def budgets_of(runs: Sequence[IsoflopRun]) -> list[float]:
    """The budgets of a study, in FLOPs, ascending."""
    return sorted({run.budget_flops for run in runs})


def _fit_budget(runs: Sequence[IsoflopRun]) -> BudgetFit:
    sizes = sorted({run.parameters for run in runs})
    best = sizes.index(min(runs, key=lambda run: run.bits_per_byte).parameters)
    first = min(max(best - FITTED_SIZES // 2, 0), max(len(sizes) - FITTED_SIZES, 0))
    fitted = sizes[first : first + FITTED_SIZES]
    near = sorted((run for run in runs if run.parameters in fitted), key=lambda run: run.parameters)
    found: BudgetFit = {
        "budget_flops": runs[0].budget_flops,
        "fitted_parameters": fitted,
        "parabola": None,
        "minimum": None,
        "no_minimum": None,
    }
    if len(fitted) < LEAST_SIZES:
        return found | {"no_minimum": f"{len(fitted)} sizes; a parabola needs {LEAST_SIZES}"}
    x = np.log10([run.parameters for run in near])
    curvature, slope, constant = (float(c) for c in np.polyfit(x, [run.bits_per_byte for run in near], 2))
    found["parabola"] = [curvature, slope, constant]
    lowest = -slope / (2 * curvature) if curvature > 0 else math.inf
    if curvature <= 0:
        return found | {"no_minimum": "the parabola opens downwards"}
    if not x[0] < lowest < x[-1]:
        where = f"{10**lowest:.3g} parameters, outside the fitted {fitted[0]:,} to {fitted[-1]:,}"
        return found | {"no_minimum": f"the minimum of the parabola lies at {where}"}
    minimum: Minimum = {
        "parameters": 10**lowest,
        "tokens": 10 ** float(np.interp(lowest, x, np.log10([run.tokens for run in near]))),
        "bits_per_byte": curvature * lowest**2 + slope * lowest + constant,
    }
    return found | {"minimum": minimum}


def _fit_law(budgets: Sequence[BudgetFit], least_budgets: int) -> Law | None:
    """N_opt and D_opt as coefficient x FLOPs^exponent, or None with fewer minima than `least_budgets`."""
    minima = [(budget["budget_flops"], budget["minimum"]) for budget in budgets if budget["minimum"] is not None]
    if len(minima) < least_budgets:
        return None
    x = np.log10([flops for flops, _ in minima])
    law: Law = {}
    for key, values in (
        ("parameters", [minimum["parameters"] for _, minimum in minima]),
        ("tokens", [minimum["tokens"] for _, minimum in minima]),
    ):
        exponent, intercept = np.polyfit(x, np.log10(values), 1)
        law[key] = {"coefficient": float(10**intercept), "exponent": float(exponent)}
    return law


def _fit_without(runs: Sequence[IsoflopRun], left_out: int) -> Law | None:
    """The law with one run left out, whose budget may then have no minimum."""
    rest = [run for index, run in enumerate(runs) if index != left_out]
    return _fit_law([_fit_budget([run for run in rest if run.budget_flops == b]) for b in budgets_of(rest)], 2)


def _range(values: Sequence[float]) -> list[float] | None:
    return [min(values), max(values)] if values else None


def at_budget(fitted: PowerLaw, flops: float) -> float:
    """A law's value at a budget."""
    return float(fitted["coefficient"] * flops ** fitted["exponent"])


def _place_15b(law: Law | None, refits: Sequence[Law], largest_budget: float) -> Placed:
    """Nemotron-4 15B on 8T tokens, counted likewise, beside what the law and Chinchilla would choose for its FLOPs."""
    model, tokens = ModelConfig.preset("nemotron4_15b"), 8e12
    flops = model.flops_per_token(model.max_sequence_length) * tokens
    parameters = model.num_parameters_without_input_embedding
    chinchilla = math.sqrt(flops / (6 * CHINCHILLA_TOKENS_PER_PARAMETER))
    placed: Placed = {
        "flops": flops,
        "parameters": parameters,
        "tokens": tokens,
        "tokens_per_parameter": tokens / parameters,
        "decades_above_largest_budget": math.log10(flops / largest_budget),
        "chinchilla": {"parameters": chinchilla, "tokens": CHINCHILLA_TOKENS_PER_PARAMETER * chinchilla},
        "law": None,
    }
    if law:
        placed["law"] = {
            key: {"value": at_budget(law[key], flops), "range": _range([at_budget(r[key], flops) for r in refits])}
            for key in law
        }
    return placed
