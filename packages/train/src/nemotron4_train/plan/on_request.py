"""Parts of a plan that only their keys ask for: scaling laws and inference on one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron4_common.staging import write_file
from nemotron4_train.plan import inference, scaling
from nemotron4_train.plan.plan_job import PlanJob

if TYPE_CHECKING:
    from rich.console import Console


def on_request(console: Console, job: PlanJob) -> dict[str, Any]:
    """Print what plan.scaling and plan.inference ask for, and draw scaling.png; returns their parts of plan.json."""
    record: dict[str, Any] = {}
    if job.plan.inference:
        gpus = inference.inference(job)
        console.print(inference.cells(gpus).rich())
        record["inference"] = inference.as_json(gpus)
    if job.plan.scaling:
        found = scaling.scaling(job)
        console.print(scaling.cells(found).rich())
        if (served := scaling.served_cells(found)) is not None:
            console.print(served.rich())
        path = job.directory / "scaling.png"
        _draw(found, path)
        console.print(f"sizes, tokens and what serving changes: {path}", soft_wrap=True)
        record["scaling"] = scaling.as_json(found)
    return record


def _draw(found: scaling.Scaling, path: Path) -> None:
    from nemotron4_train.plan.scaling_picture import scaling_figure
    from nemotron4_train.reporting.timeline_plots import as_png

    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, as_png(scaling_figure(found)))
