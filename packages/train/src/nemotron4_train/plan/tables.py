"""Show a training job before anything runs: its timeline, layouts, what a step and the whole run take, and epochs.

What was shown is also in <plan.out>/plan.json, and drawn in plan.png beside it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nemotron4_common.staging import write_file
from nemotron4_common.system_errors import check_can_write
from nemotron4_common.terminal import plain_console
from nemotron4_train.budget import training_flops
from nemotron4_train.job import TrainJob
from nemotron4_train.plan.cells import folding_table
from nemotron4_train.plan.dry_run import print_dry_runs
from nemotron4_train.plan.estimate import Estimate, estimate
from nemotron4_train.plan.estimate_tables import print_estimate
from nemotron4_train.plan.on_request import on_request
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.plan.record import RECORD_FILE, plan_record, render_record
from nemotron4_train.plan.search import search
from nemotron4_train.plan.search_tables import print_search, search_json
from nemotron4_train.plan.validation import show_validation
from nemotron4_train.reporting.report import timeline_rows
from nemotron4_train.schedule import Timeline

_WIDTH = 130


def show(job: PlanJob) -> None:
    """Print the job's tables, and write plan.json and plan.png."""
    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    if job.plan.published:
        show_validation(console)
        return
    directory = job.directory
    check_can_write(directory / RECORD_FILE, "run.root" if job.plan.out is None else "plan.out")
    timeline = job.timeline()
    if job.start_from is not None:
        _check_start(console, job, job.start_from)
    found, ranked = estimate(job), search(job) if job.plan.search else None
    directory.mkdir(parents=True, exist_ok=True)
    console.print(_model(job), soft_wrap=True)
    console.print(_timeline(job, timeline))
    print_estimate(console, job, found)
    record = plan_record(job, timeline, found)
    if job.plan.dry_run:
        record["dry_run"] = {name: asdict(run) for name, run in print_dry_runs(job, console).items()}
    record |= on_request(console, job)
    if ranked is not None:
        record["search"] = search_json(ranked)
    write_file(directory / RECORD_FILE, render_record(record))
    _draw(job, timeline, found, directory / "plan.png")
    console.print(f"as a picture: {directory / 'plan.png'}; as data: {directory / RECORD_FILE}", soft_wrap=True)
    if Path(job.data.dir).is_dir():
        _print_epochs(console, job, timeline)
    else:
        console.print(f"{job.data.dir}: not prepared, so epochs are not known")
    if ranked is not None:
        print_search(console, ranked)


def _check_start(console: Console, job: TrainJob, directory: str) -> None:
    if not Path(directory).is_dir():
        console.print(f"{directory}: not there, so the model that the run would start from is not checked")
        return
    from nemotron4_data import Corpus
    from nemotron4_train.checkpoints.start_from import Pieces, check_model

    check_model(job)
    if Path(job.data.dir).is_dir():
        Pieces.of(job, Corpus.open(job.data.dir))


def _draw(job: TrainJob, timeline: Timeline, found: Estimate, path: Path) -> None:
    from nemotron4_train.plan.pictures import plan_picture
    from nemotron4_train.reporting.timeline_plots import as_png

    write_file(path, as_png(plan_picture(job, timeline, found)))


def _model(job: TrainJob) -> str:
    model = job.model
    sequence = max(phase.sequence_length for phase in job.schedule.phases.values())
    embedding = model.num_embedding_parameters
    return (
        f"model: {model.num_parameters:,} parameters, {model.num_non_embedding_parameters:,} without embedding and head"
        f" ({embedding / model.num_parameters:.0%}); {model.flops_per_token(sequence):.4g} training FLOPs a token"
        " (full attention)"
    )


def _timeline(job: TrainJob, timeline: Timeline) -> Table:
    table = folding_table(
        "phase", "tokens", "steps", "global batch", "sequence", "blend", "lr from", "lr to", title="Timeline"
    )
    for plan, row in zip(timeline.phases, timeline_rows(timeline), strict=True):
        first, last = plan.first_token + plan.tokens_per_step, plan.first_token + plan.num_tokens
        rates = [job.optimizer.matrix_lr * timeline.learning_rate_fraction(token) for token in (first, last)]
        table.add_row(*row, *(f"{rate:.3g}" for rate in rates))
    table.caption = (
        f"{timeline.num_tokens:,} tokens in {timeline.num_steps:,} steps,"
        f" {training_flops(timeline, job.model):.4g} FLOPs (full attention)\nlr: learning rate of the blocks' matrices"
    )
    return table


def _print_epochs(console: Console, job: TrainJob, timeline: Timeline) -> None:
    from nemotron4_data import Corpus
    from nemotron4_data.blend import epochs_table, phase_weights, render_epochs

    tokens = Corpus.open(job.data.dir).num_train_tokens
    weights = phase_weights(replace(job.blend, max_epochs=math.inf), timeline.blend_phases, tokens)
    drawn = [(plan.num_tokens, of_phase) for plan, of_phase in zip(timeline.phases, weights, strict=True)]
    console.print(render_epochs(epochs_table(drawn, tokens)))
    phase_weights(job.blend, timeline.blend_phases, tokens)  # raises past the cap, but only after showing the table
