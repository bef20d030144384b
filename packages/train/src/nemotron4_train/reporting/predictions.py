"""What a run was predicted to take, beside what it took: step time and peak memory of each phase.

Predictions are those of estimates/, on the machine that the run is really on; so every run is a check of the planner.
Convention: on a GPU, memory is what torch allocates; on a CPU it is all that is resident, which the prediction allows
for.
"""

from __future__ import annotations

import html
from statistics import median
from typing import TypedDict

from nemotron4_common.html_page import table
from nemotron4_train.estimates.layout import layout_of
from nemotron4_train.estimates.memory import memory
from nemotron4_train.estimates.step_time import step_time
from nemotron4_train.job import TrainJob
from nemotron4_train.machine import Machine, machine_in_use
from nemotron4_train.reporting.metrics import Rows
from nemotron4_train.schedule import Phase
from nemotron4_train.topology import Device, TopologyConfig

_FITTED_ON = "h100_sxm"
_LAST_STEPS = 1_000


class StepFigures(TypedDict):
    """A phase's step on one rank; None for what is not known, or not done yet."""

    step_seconds: float | None
    """Measured: the median of the phase's last 1,000 steps, validation and checkpoints not counted."""
    peak_memory_bytes: int | None
    """Measured: of the first rank since it started, so a phase includes those before it on the same topology."""


class Predictions(TypedDict, total=False):
    """The part of report.json that is about predictions, by phase."""

    predicted: dict[str, StepFigures]
    measured: dict[str, StepFigures]
    prediction_basis: str
    """What the predictions rest on, and why one is missing."""


def predictions(job: TrainJob, steps: Rows, gpu: str | None) -> Predictions:
    """Predict each phase of a job, and summarise its rows of metrics.csv; `gpu` is what CUDA calls the run's GPU."""
    predicted, measured, notes = {}, {}, []
    for name, phase in job.schedule.phases.items():
        predicted[name], note = _predict(job, phase, gpu)
        notes.append(note)
        measured[name] = _measure(phase, [row for row in steps if row.get("phase") == name])
    return {"predicted": predicted, "measured": measured, "prediction_basis": "; ".join(dict.fromkeys(notes))}


def prediction_table(found: Predictions) -> str:
    """HTML of a table with a row for each phase, and of what the predictions rest on."""
    rows = [
        (
            name,
            *_pair(predicted["step_seconds"], found["measured"][name]["step_seconds"], 1, "s"),
            *_pair(predicted["peak_memory_bytes"], found["measured"][name]["peak_memory_bytes"], 1e9, "GB"),
        )
        for name, predicted in found["predicted"].items()
    ]
    header = ("phase", "step, predicted", "measured", "peak memory of a rank, predicted", "measured")
    note = f"In brackets: measured against predicted. Basis: {found['prediction_basis']}."
    return f"{table(header, rows)}<p class=lead>{html.escape(note)}</p>"


def _predict(job: TrainJob, phase: Phase, gpu: str | None) -> tuple[StepFigures, str]:
    """The figures of a phase's step, and what they rest on."""
    topology = phase.topology or job.topology
    layout, seconds = layout_of(job, phase, topology), None
    try:
        machine = machine_in_use(topology.machine, gpu)
        if machine is not None:
            seconds = step_time(job.model, layout, machine, optimizer=job.optimizer.kind).total_seconds
        note = _basis(machine, topology, gpu)
    except ValueError as error:  # its file is gone, or it has no peak for the job's precision
        note = f"step time is not predicted: {error}"
    needed = memory(job.model, layout, job.optimizer.kind)
    num_bytes = needed.total if topology.device is Device.cpu else needed.allocated
    return {"step_seconds": seconds, "peak_memory_bytes": num_bytes}, note


def _basis(machine: Machine | None, topology: TopologyConfig, gpu: str | None) -> str:
    if machine is None:
        named = "topology.machine is null" if topology.machine is None else f"topology.machine is {topology.machine}"
        on = "" if gpu is None else f", and the run is on {gpu}"
        return f"step time is not predicted, because the machine is not known: {named}{on}"
    fitted = "from the machine's peaks, with constants fitted on published steps of H100s"
    if machine.name == _FITTED_ON:
        return f"step time on {machine.name}: {fitted}"
    return f"step time on {machine.name}: a roofline {fitted}, not calibrated for this machine"


def _measure(phase: Phase, rows: Rows) -> StepFigures:
    speeds = [(int(row["global_batch_size"]), float(row["tokens_per_second"])) for row in rows[-_LAST_STEPS:]]
    seconds = [phase.sequence_length * batch / speed for batch, speed in speeds if speed]
    peaks = [int(row["peak_memory_bytes"]) for row in rows if row.get("peak_memory_bytes")]
    return {
        "step_seconds": median(seconds) if seconds else None,
        "peak_memory_bytes": max(peaks, default=None),
    }


def _pair(predicted: float | None, measured: float | None, unit: float, name: str) -> tuple[str, str]:
    shown = ["" if value is None else f"{value / unit:,.3g} {name}" for value in (predicted, measured)]
    if predicted and measured:
        shown[1] += f" ({measured / predicted - 1:+.0%})"
    return shown[0], shown[1]
