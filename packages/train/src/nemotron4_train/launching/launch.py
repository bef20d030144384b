"""Start a run: check everything on this machine, make the run directory, start the workers, record how it ended.

A single rank trains in this process. Several are started by elastic.py, one leg after another, and read job.yaml; on
Slurm each leg is submitted as a job.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from nemotron4_common.system_errors import naming_place
from nemotron4_train.checkpoints import reading
from nemotron4_train.cuda_settings import let_segments_grow
from nemotron4_train.job import TrainJob
from nemotron4_train.launcher_config import LauncherKind
from nemotron4_train.launching.afterwards import check_afterwards, run_afterwards
from nemotron4_train.launching.elastic import launch_workers
from nemotron4_train.launching.legs import leg_job, legs, legs_left
from nemotron4_train.launching.preflight import (
    check_checkpoint,
    check_corpus,
    check_evaluation,
    check_machine,
    num_threads,
)
from nemotron4_train.launching.slurm import client
from nemotron4_train.launching.slurm.submit import check_not_queued, submit_chain, write_scripts
from nemotron4_train.launching.worker import WAY_OUT, run_worker
from nemotron4_train.run_directory import (
    RunRecord,
    RunState,
    choose_directory,
    create,
    exclusive,
    keep_tokenizer,
    note_start,
    read_record,
    record_failure,
)
from nemotron4_train.schedule import Timeline
from nemotron4_train.stop_signal import StopSignal
from nemotron4_train.topology import Device


def launch(job: TrainJob, job_yaml: str) -> float | None:
    """Run the job to its end, or hand it to Slurm; returns the final held-out bits per byte of a finished run.

    Raises ValueError for what the user can fix, RuntimeError naming the rank that failed, SystemExit(75 or 130) when
    the run was stopped by a signal after saving, or before there was anything to save.
    """
    timeline = job.timeline()
    if any(leg.topology.device is Device.cuda for leg in legs(job)):
        let_segments_grow()
    check_machine(job)
    check_afterwards(job)
    directory = choose_directory(job, timeline.num_steps)
    corpus = check_corpus(job, directory)
    done_steps = check_checkpoint(job, corpus, directory, timeline)
    check_evaluation(job, corpus)
    on_slurm, elsewhere = job.launcher.kind is LauncherKind.slurm, job.launcher.dry_run
    # `status` may hold the lock for a moment.
    with naming_place(directory, WAY_OUT), exclusive(directory, wait_seconds=1.0):
        record = read_record(directory)
        if record is not None and not job.afterwards and _is_complete(record, job, timeline):
            print(f"run directory: {directory}: already complete, step {record.step}", file=sys.stderr)
            return record.objective
        if (on_slurm and not elsewhere) or ((directory / "slurm").is_dir() and client.is_available()):
            check_not_queued(directory)
        if job.resume != "auto":
            reading.set_aside(directory, job.resume, done_steps)
        state = RunState.queued if on_slurm or elsewhere else RunState.running
        create(directory, job, job_yaml, timeline.num_steps, state)
        print(f"run directory: {directory}", file=sys.stderr, flush=True)
        try:
            with naming_place(directory, WAY_OUT):
                keep_tokenizer(directory, corpus)
                if on_slurm or elsewhere:
                    _start_elsewhere(job, directory, done_steps)
                    return None
                _run_here(job, directory, done_steps)
        except BaseException as error:
            record_failure(directory, error)
            raise
    run_afterwards(job, directory)
    record = read_record(directory)
    assert record is not None
    return record.objective


def _is_complete(record: RunRecord, job: TrainJob, timeline: Timeline) -> bool:
    """Whether there is nothing left to do: only a job that sets run.dir returns to a complete run."""
    whole = record.state is RunState.complete and record.step >= timeline.num_steps
    return job.resume == "auto" and whole and record.job_digest == job.digest()


def _start_elsewhere(job: TrainJob, directory: Path, done_steps: int) -> None:
    """Submit to Slurm, or print the command that would start the workers."""
    if job.launcher.kind is LauncherKind.slurm:
        scripts = write_scripts(job, directory, done_steps)
        if job.launcher.dry_run:
            print("\n".join(f"# {script.path}\n{script.path.read_text()}" for script in scripts))
        else:
            submit_chain(job, directory, scripts)
        return
    for number, leg in enumerate(legs(job)):
        nodes = leg.topology.num_nodes
        meeting = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint $HOST:29500" if nodes > 1 else "--standalone"
        worker = shlex.join(("-m", "nemotron4_train.cli", str(directory.resolve()), str(number)))
        print(f"torchrun {meeting} --nproc-per-node {leg.topology.num_ranks_per_node} {worker}")


def _run_here(job: TrainJob, directory: Path, done_steps: int) -> None:
    """Train the unfinished legs, one after the other."""
    chain = legs(job)
    if len(chain) == 1 and chain[0].topology.num_ranks == 1:
        import torch

        with StopSignal() as stop:
            torch.set_num_threads(num_threads(job))
            run_worker(leg_job(job, chain[0]), directory, stop)
        return
    for number, leg in legs_left(job, done_steps):
        note_start(directory)
        launch_workers(leg_job(job, leg), directory, number)
