"""The IsoFLOP study of a sweep, if it has one: from its runs' reports to isoflop.json, isoflop.png and the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nemotron4_common.staging import write_file
from nemotron4_train.sweeps.isoflop import LEAST_SIZES, IsoflopRun, Study, budgets_of, study


class _SweepRow(Protocol):
    run_dir: str
    objective: float | None


def write_study(directory: Path, rows: Sequence[_SweepRow]) -> None:
    """Write isoflop.json and isoflop.png and print the tables, if the sweep has three sizes at one FLOPs budget."""
    runs = _read_runs(rows)
    sizes = [{run.parameters for run in runs if run.budget_flops == budget} for budget in budgets_of(runs)]
    if max(map(len, sizes), default=0) < LEAST_SIZES:
        return
    from nemotron4_train.reporting.timeline_plots import as_png
    from nemotron4_train.sweeps.isoflop_plots import isoflop_figure

    found = study(runs)
    write_file(directory / "isoflop.json", (json.dumps(found, indent=1) + "\n").encode())
    write_file(directory / "isoflop.png", as_png(isoflop_figure(found)))
    _print(found, directory)


def _read_runs(rows: Sequence[_SweepRow]) -> list[IsoflopRun]:
    """The finished runs with a budget, from their reports."""
    runs = []
    for row in rows:
        path = Path(row.run_dir) / "report.json"
        if row.objective is None or not path.is_file():
            continue
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            if report.get("budget_flops") is not None:
                # Older reports have the older key.
                old, new = "parameters_but_input_embedding", "parameters_without_input_embedding"
                sizes = {"parameters": int(report[old if old in report else new]), "tokens": int(report["tokens"])}
                budget = float(report["budget_flops"])
                runs.append(IsoflopRun(budget_flops=budget, bits_per_byte=row.objective, **sizes))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{path}: left out of the study, not a report ({error!r})", file=sys.stderr)
    return runs


def _print(found: Study, directory: Path) -> None:
    from rich.table import Table

    from nemotron4_common.terminal import plain_console

    table = Table("FLOPs", "best parameters", "tokens", "tokens per parameter", "bits per byte", title="IsoFLOP")
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


def law_lines(found: Study) -> list[str]:
    """The budgets without a minimum, the laws, and where Nemotron-4 15B lies, one sentence per line."""
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
        f" {placed['tokens_per_parameter']:.0f} tokens per parameter; at 20 per parameter these FLOPs would buy"
        f" {placed['chinchilla']['parameters'] / 1e9:.0f}B on {placed['chinchilla']['tokens'] / 1e12:.2g}T"
    )
    if placed["law"]:
        parameters, tokens = placed["law"]["parameters"]["value"], placed["law"]["tokens"]["value"]
        lines.append(
            f"the law, {placed['decades_above_largest_budget']:.1f} decades beyond the largest budget and no evidence"
            f" there, gives {parameters / 1e9:.3g}B on {tokens / 1e12:.3g}T"
        )
    return lines
