"""What only the machine and the files can say of a job before its workers start: devices, packages, a given checkpoint.

Rules between settings are the job's own (job.py). Everything here raises ValueError, one line.
"""

from __future__ import annotations

import json
from pathlib import Path

from nemotron4_train import checkpoint
from nemotron4_train.job import Device, Precision, TrainJob
from nemotron4_train.schedule import Timeline


def check_machine(job: TrainJob) -> None:
    """This machine has the devices of its ranks, and what the precision needs."""
    if job.topology.device is Device.cuda:
        import torch

        asked, found = job.topology.num_ranks_per_node, torch.cuda.device_count()
        if asked > found:
            raise ValueError(
                f"topology.device (cuda): this machine has {found} GPUs, and {asked} ranks would run on it;"
                " choose another topology=OPTION"
            )
    if job.precision.compute is Precision.fp8:
        from nemotron4_model.parallel.float8 import check_float8

        check_float8()


def check_position(job: TrainJob, timeline: Timeline) -> None:
    """A checkpoint given by its path lies on this timeline, before its end: no sample is repeated or skipped."""
    if job.resume in ("auto", "never"):
        return
    step = json.loads((Path(job.resume) / "state.json").read_text(encoding="utf-8"))["step"]
    if step >= timeline.num_steps:
        raise ValueError(
            f"resume ({job.resume}): has done {step:,} steps, and this run ends after {timeline.num_steps:,};"
            " append phases to its schedule, as in 'schedule=[FIRST,SECOND]', or raise trainer.max_steps"
        )
    read, here = checkpoint.ledger(Path(job.resume)).tokens, timeline.tokens_before(step)
    if read != here:
        raise ValueError(
            f"resume ({job.resume}): has read {read:,} tokens in {step:,} steps, but the first {step:,} steps of this"
            f" schedule are {here:,}; start the schedule with the phases that the checkpoint was trained on"
        )
