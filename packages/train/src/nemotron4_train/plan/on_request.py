"""Parts of a plan that only their keys ask for: scaling laws and inference on one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron4_common.staging import write_file
from nemotron4_train.plan import inference, scaling
from nemotron4_train.plan.plan_job import PlanJob

if TYPE_CHECKING:
    from rich.console import Console


def print_on_request(console: Console, job: PlanJob) -> None:
    """Print what plan.scaling and plan.inference ask for, and draw scaling.png into plan.out."""
    if job.plan.inference:
        console.print(inference.cells(inference.inference(job)).rich())
    if job.plan.scaling:
        found = scaling.scaling(job)
        console.print(scaling.cells(found).rich())
        if (served := scaling.served_cells(found)) is not None:
            console.print(served.rich())
        from nemotron4_train.plan.scaling_picture import scaling_figure
        from nemotron4_train.reporting.timeline_plots import as_png

        path = Path(job.plan.out or Path(job.run.root, job.run.name)) / "scaling.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, as_png(scaling_figure(found)))
        console.print(f"sizes, tokens and what serving changes: {path}", soft_wrap=True)


def json_on_request(job: PlanJob) -> dict[str, Any]:
    """The `scaling` and `inference` of plan.json, of what was asked for."""
    return {
        **({"scaling": scaling.as_json(scaling.scaling(job))} if job.plan.scaling else {}),
        **({"inference": inference.as_json(inference.inference(job))} if job.plan.inference else {}),
    }
