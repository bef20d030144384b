"""The IsoFLOP study of a sweep: at each budget the size that did best, and how it grows with the budget.

Approach 2 of Hoffmann et al. (arXiv 2203.15556, section 3.2): through the runs of one budget goes a parabola of loss
over log N; through the minima of the budgets go the laws N_opt = a C^alpha and D_opt = b C^beta, lines in logarithms.
Invariant: a parabola without a minimum between its smallest and its largest size gives none, and no law rests on it.

C is the FLOPs of budget.py. N is every parameter but the input embedding, which takes part in no product, so that
C is about 6 N D; leaving the head out too would bend the law (arXiv 2406.19146). D is training tokens.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nemotron4_data.staging import write_file
from nemotron4_model.config import ModelConfig

FITTED_SIZES = 5
"""Sizes about the best that a parabola goes through: further out the loss is none, and the ladder's ends would pull."""
LEAST_SIZES = 3
LEAST_BUDGETS = 3
CHINCHILLA_TOKENS_PER_PARAMETER = 20
"""What arXiv 2203.15556 comes to, by approaches 1 and 2."""


@dataclass(frozen=True, kw_only=True)
class IsoflopRun:
    """One point of the study."""

    budget_flops: float
    parameters: int
    """All but the input embedding."""
    tokens: int
    bits_per_byte: float
    """Of held-out text, at the end."""


class _SweepRow(Protocol):
    run_dir: str
    objective: float | None


def write_study(directory: Path, rows: Sequence[_SweepRow]) -> None:
    """Write isoflop.json and isoflop.png and print the tables, if the sweep has three sizes at a budget of FLOPs."""
    runs = _read_runs(rows)
    sizes = [{run.parameters for run in runs if run.budget_flops == budget} for budget in _budgets(runs)]
    if max(map(len, sizes), default=0) < LEAST_SIZES:
        return
    from nemotron4_train.isoflop_plots import isoflop_figure
    from nemotron4_train.plots import as_png

    found = study(runs)
    write_file(directory / "isoflop.json", (json.dumps(found, indent=1) + "\n").encode())
    write_file(directory / "isoflop.png", as_png(isoflop_figure(found)))
    _print(found, directory)


def _read_runs(rows: Sequence[_SweepRow]) -> list[IsoflopRun]:
    """The finished runs with a budget, by their reports."""
    runs = []
    for row in rows:
        path = Path(row.run_dir) / "report.json"
        if row.objective is None or not path.is_file():
            continue
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            if report.get("budget_flops") is not None:
                sizes = {"parameters": int(report["parameters_but_input_embedding"]), "tokens": int(report["tokens"])}
                budget = float(report["budget_flops"])
                runs.append(IsoflopRun(budget_flops=budget, bits_per_byte=row.objective, **sizes))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{path}: left out of the study, not a report ({error!r})", file=sys.stderr)
    return runs


def study(runs: Sequence[IsoflopRun]) -> dict[str, Any]:
    """What isoflop.json holds; a budget without a minimum has `minimum: null` and says why, and so has the law."""
    budgets = [_fit_budget([run for run in runs if run.budget_flops == budget]) for budget in _budgets(runs)]
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
        "nemotron4_15b": _place_15b(law, refits, max(_budgets(runs))),
    }


def _budgets(runs: Sequence[IsoflopRun]) -> list[float]:
    return sorted({run.budget_flops for run in runs})


def _fit_budget(runs: Sequence[IsoflopRun]) -> dict[str, Any]:
    sizes = sorted({run.parameters for run in runs})
    best = sizes.index(min(runs, key=lambda run: run.bits_per_byte).parameters)
    first = min(max(best - FITTED_SIZES // 2, 0), max(len(sizes) - FITTED_SIZES, 0))
    fitted = sizes[first : first + FITTED_SIZES]
    near = sorted((run for run in runs if run.parameters in fitted), key=lambda run: run.parameters)
    found: dict[str, Any] = {"budget_flops": runs[0].budget_flops, "fitted_parameters": fitted, "parabola": None}
    found |= {"minimum": None, "no_minimum": None}
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
    minimum = {
        "parameters": 10**lowest,
        "tokens": 10 ** float(np.interp(lowest, x, np.log10([run.tokens for run in near]))),
        "bits_per_byte": curvature * lowest**2 + slope * lowest + constant,
    }
    return found | {"minimum": minimum}


def _fit_law(budgets: Sequence[Mapping[str, Any]], least_budgets: int) -> dict[str, Any] | None:
    """N_opt and D_opt as coefficient x FLOPs^exponent, or None with fewer minima."""
    with_minimum = [budget for budget in budgets if budget["minimum"] is not None]
    if len(with_minimum) < least_budgets:
        return None
    x = np.log10([budget["budget_flops"] for budget in with_minimum])
    law = {}
    for key in ("parameters", "tokens"):
        exponent, intercept = np.polyfit(x, np.log10([budget["minimum"][key] for budget in with_minimum]), 1)
        law[key] = {"coefficient": float(10**intercept), "exponent": float(exponent)}
    return law


def _fit_without(runs: Sequence[IsoflopRun], left_out: int) -> dict[str, Any] | None:
    """The law without one run, which may take its budget's minimum away."""
    rest = [run for index, run in enumerate(runs) if index != left_out]
    return _fit_law([_fit_budget([run for run in rest if run.budget_flops == b]) for b in _budgets(rest)], 2)


def _range(values: Sequence[float]) -> list[float] | None:
    return [min(values), max(values)] if values else None


def at_budget(fitted: Mapping[str, Any], flops: float) -> float:
    """A law's value at a budget."""
    return float(fitted["coefficient"] * flops ** fitted["exponent"])


def _place_15b(
    law: Mapping[str, Any] | None, refits: Sequence[Mapping[str, Any]], largest_budget: float
) -> dict[str, Any]:
    """Nemotron-4 15B on 8T tokens by the same count, beside what the law and Chinchilla would do with its FLOPs."""
    model, tokens = ModelConfig.preset("nemotron4_15b"), 8e12
    flops = model.flops_per_token(model.max_sequence_length) * tokens
    parameters = model.num_parameters - model.vocab_size * model.hidden_size
    chinchilla = math.sqrt(flops / (6 * CHINCHILLA_TOKENS_PER_PARAMETER))
    placed: dict[str, Any] = {
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


def _print(found: Mapping[str, Any], directory: Path) -> None:
    from rich.table import Table

    from nemotron4_data.terminal import plain_console

    table = Table("FLOPs", "best parameters", "tokens", "tokens a parameter", "bits per byte", title="IsoFLOP")
    for budget in found["budgets"]:
        cells = ["no minimum"]
        if minimum := budget["minimum"]:
            ratio = minimum["tokens"] / minimum["parameters"]
            cells = [f"{minimum['parameters']:,.0f}", f"{minimum['tokens']:,.0f}", f"{ratio:.1f}"]
            cells.append(f"{minimum['bits_per_byte']:.4f}")
        table.add_row(f"{budget['budget_flops']:.3g}", *cells)
    console = plain_console(stderr=True)
    console.print(table)
    for line in (*law_lines(found), str(directory / "isoflop.png")):
        console.print(line, soft_wrap=True, highlight=False)


def law_lines(found: Mapping[str, Any]) -> list[str]:
    """What has no minimum, the laws, and where Nemotron-4 15B sits, a sentence a line."""
    placed = found["nemotron4_15b"]
    lines = [f"{b['budget_flops']:.3g} FLOPs: {b['no_minimum']}" for b in found["budgets"] if b["no_minimum"]]
    lines += [f"no law: {found['no_law']}"] if found["no_law"] else []
    for key, symbol in (("parameters", "N_opt"), ("tokens", "D_opt")):
        if found["law"]:
            fitted = found["law"][key]
            span = fitted["leave_one_out"]
            shown = f" ({span[0]:.3f} to {span[1]:.3f} without any one run)" if span else ""
            lines.append(f"{symbol} = {fitted['coefficient']:.3g} C^{fitted['exponent']:.3f}{shown}")
    lines.append(
        f"Nemotron-4 15B on 8T tokens: {placed['flops']:.3g} FLOPs, {placed['parameters'] / 1e9:.1f}B parameters,"
        f" {placed['tokens_per_parameter']:.0f} tokens a parameter; at 20 a parameter these FLOPs would buy"
        f" {placed['chinchilla']['parameters'] / 1e9:.0f}B on {placed['chinchilla']['tokens'] / 1e12:.2g}T"
    )
    if placed["law"]:
        parameters, tokens = placed["law"]["parameters"]["value"], placed["law"]["tokens"]["value"]
        lines.append(
            f"the law, {placed['decades_above_largest_budget']:.1f} decades beyond the largest budget and no evidence"
            f" there, says {parameters / 1e9:.3g}B on {tokens / 1e12:.3g}T"
        )
    return lines
