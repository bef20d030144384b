"""The fit of one worker: what every rank runs, alone or under a launcher that set RANK and WORLD_SIZE.

Returns when the timeline is done or the run was asked to stop; raises ValueError for what the user can fix.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import SingleDeviceStrategy

from nemotron4_data import Corpus, StreamPhase, TokenStream
from nemotron4_data.blend import phase_weights
from nemotron4_eval.heldout.text import domain_of
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.start_from import Parent
from nemotron4_train.cuda_settings import sum_in_fp32
from nemotron4_train.evaluation import open_tasks
from nemotron4_train.health_check import check_health
from nemotron4_train.host_memory import keep_freed_memory
from nemotron4_train.job import TrainJob
from nemotron4_train.lightning.callbacks import Checkpointer, StopOnSignal, Validator
from nemotron4_train.lightning.data import StepDataModule
from nemotron4_train.lightning.evaluator import Evaluator
from nemotron4_train.lightning.garbage import GarbageCollection
from nemotron4_train.lightning.loggers import finish, make_loggers
from nemotron4_train.lightning.module import PretrainingModule
from nemotron4_train.lightning.profiler import StepProfiler
from nemotron4_train.lightning.recorder import ReportRefresher, StepRecorder
from nemotron4_train.lightning.strategy import MeshStrategy, process_group, uses_mesh
from nemotron4_train.machine import machine_in_use
from nemotron4_train.ranks import rank
from nemotron4_train.reporting import evaluations
from nemotron4_train.reporting.metrics import MetricsFile
from nemotron4_train.reporting.mfu import Utilisation
from nemotron4_train.reporting.progress import TrainingProgress
from nemotron4_train.reporting.source_metrics import SourceMetrics
from nemotron4_train.run_directory import read_record, write_record
from nemotron4_train.schedule import Timeline
from nemotron4_train.step_guard import GuardState, StepGuard
from nemotron4_train.stop_signal import StopSignal
from nemotron4_train.topology import Device


@dataclass(frozen=True)
class FitResult:
    """How a worker's fit ended."""

    step: int
    """Optimiser steps done."""
    stopped_by: int | None
    """The signal that stopped it early; None when the timeline is done."""
    objective: float | None
    """Final held-out bits per byte."""


def token_stream(job: TrainJob, corpus: Corpus, timeline: Timeline) -> TokenStream:
    """The run's data order: its phases over the corpus."""
    weights = phase_weights(job.blend, timeline.blend_phases, corpus.num_train_tokens)
    phases = [
        StreamPhase(num_samples=plan.num_samples, sequence_length=plan.phase.sequence_length, weights=of_phase)
        for plan, of_phase in zip(timeline.phases, weights, strict=True)
    ]
    return TokenStream(corpus, phases, job.seed, job.schedule.shuffle_block_tokens)


def fit(job: TrainJob, run_directory: Path, stop: StopSignal) -> FitResult:
    """Train in this process, as one rank of the topology."""
    with process_group(job):
        return _fit(job, run_directory, stop)


def _fit(job: TrainJob, run_directory: Path, stop: StopSignal) -> FitResult:
    _quieten_lightning()
    if job.topology.device is Device.cpu:
        keep_freed_memory()
    else:
        sum_in_fp32()
    torch.manual_seed(job.seed)  # our code never draws from the global generators, but checkpoints hold their state
    torch.use_deterministic_algorithms(job.is_deterministic)
    # Filling is a debugging aid that writes every new tensor twice; mypy does not see the module's property.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as said
    timeline = job.timeline()
    corpus = Corpus.open(job.data.dir)
    stream = token_stream(job, corpus, timeline)
    # Otherwise Lightning's loggers are silent in a Slurm task whose SLURM_PROCID is not 0.
    rank_zero_only.rank = rank()  # type: ignore[attr-defined]  # Lightning sets it like this too
    if rank() == 0 and (record := read_record(run_directory)) is not None:
        record.deterministic = job.is_deterministic
        record.gpu = torch.cuda.get_device_name() if job.topology.device is Device.cuda else None
        write_record(run_directory, record)
    if job.launcher.health_check and job.topology.num_ranks > 1:
        check_health(job.topology, job.launcher.health_check_max_slowdown)
    found = reading.find(run_directory, job.resume)
    first_step = found.step if found else 0
    parent = Parent.open(job, corpus) if job.start_from is not None and found is None else None
    guard = StepGuard(job.trainer, found.guard if found else GuardState())
    module = PretrainingModule(job, timeline, stream.source_names, first_step, corpus.tokenizer.eos_id, guard, parent)
    started_from = found.started_from if found else parent.record if parent else None
    saver = Checkpointer(run_directory, job, timeline, corpus, stream, found.ledger if found else None, started_from)
    stopper = StopOnSignal(stop)
    validator, callbacks, close = _callbacks(job, run_directory, timeline, corpus, saver, first_step, stopper)
    garbage = GarbageCollection()
    loggers = make_loggers(job, run_directory, first_step) if rank() == 0 else []
    trainer = pl.Trainer(
        **_devices(job),
        logger=loggers,
        callbacks=[_Restore(found.directory) if found else pl.Callback(), *callbacks, garbage],
        max_epochs=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    data = StepDataModule(stream, timeline, first_step, job.topology.num_data_ranks, job.num_reader_processes)
    with ExitStack() as at_the_end:  # each one, even if another fails
        at_the_end.callback(finish, loggers)
        for opened in (*close, garbage):
            at_the_end.callback(opened.close)
        if first_step < timeline.num_steps:
            trainer.fit(module, datamodule=data)
    stopped_by = stopper.agreed if module.next_step < timeline.num_steps else None
    return FitResult(step=module.next_step, stopped_by=stopped_by, objective=validator.overall)


class _Restore(pl.Callback):
    """Fill the sharded model and optimiser from a checkpoint, once both exist."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PretrainingModule)
        assert pl_module.model is not None
        reading.load(self.directory, pl_module.model, pl_module.raw_optimizers)


def _callbacks(
    job: TrainJob,
    run_directory: Path,
    timeline: Timeline,
    corpus: Corpus,
    saver: Checkpointer,
    first_step: int,
    stopper: StopOnSignal,
) -> tuple[Validator, list[pl.Callback], list[Any]]:
    """In order: record, validate, evaluate, check for a signal, save, report, profile.

    Only rank 0 has files and progress.
    """
    tasks = None
    if job.evaluation.is_on:  # before the clock of the progress starts
        tasks = open_tasks(job.evaluation, corpus.tokenizer, job.model.max_sequence_length)
    if rank() != 0:
        validator = Validator(job.trainer, corpus, timeline, None, None)
        evaluator = [Evaluator(job.evaluation, tasks, corpus.tokenizer.eos_id, timeline, None, None)] if tasks else []
        return validator, [validator, *evaluator, stopper, saver, *_profiler(job, run_directory, None)], []
    interval = job.trainer.log_interval_steps
    progress = TrainingProgress(timeline, first_step, interval, _utilisation(job))
    columns = ("step", "tokens", "overall", *sorted(set(map(domain_of, corpus.heldout_names))))
    validation = MetricsFile(run_directory / "validation.csv", columns, first_step)
    validator = Validator(job.trainer, corpus, timeline, validation, progress)
    recorder = StepRecorder(run_directory, first_step, progress, SourceMetrics(corpus, saver.stream), interval)
    place, evaluator, evaluated = run_directory / evaluations.FILE, [], []
    if tasks or place.is_file():  # which may have rows of steps that are now trained again
        evaluated.append(MetricsFile(place, evaluations.COLUMNS, first_step))
    if tasks:
        evaluator.append(Evaluator(job.evaluation, tasks, corpus.tokenizer.eos_id, timeline, evaluated[0], progress))
    saver.metrics = [*recorder.files, validation, *evaluated]
    report = ReportRefresher(job, run_directory, timeline.num_steps, progress)
    callbacks = [recorder, validator, *evaluator, stopper, saver, report, *_profiler(job, run_directory, progress)]
    return validator, callbacks, [progress, recorder, validation, *evaluated]


def _profiler(job: TrainJob, run_directory: Path, progress: TrainingProgress | None) -> list[pl.Callback]:
    if job.trainer.profile_first_step is None:
        return []
    return [StepProfiler(job.trainer, run_directory, rank(), progress)]


def _utilisation(job: TrainJob) -> Utilisation:
    peak = job.topology.peak_teraflops
    if peak is None and job.topology.device is Device.cuda:
        machine = machine_in_use(job.topology.machine, torch.cuda.get_device_name())
        peak = None if machine is None else machine.peak_teraflops["bf16"]
    return Utilisation(model=job.model, num_devices=job.topology.num_ranks, peak_teraflops=peak)


def _devices(job: TrainJob) -> dict[str, Any]:
    """Trainer arguments of the topology.

    Ranks come from the environment variables of torch's launcher, whatever set them: Lightning's own detection of Slurm
    handles signals and requires particular options of sbatch.
    """
    topology = job.topology
    environment: ClusterEnvironment = LightningEnvironment() if topology.num_ranks == 1 else TorchElasticEnvironment()
    if uses_mesh(job):
        strategy: Any = MeshStrategy(topology.replicate, topology.shard, topology.tensor)
    else:
        strategy = SingleDeviceStrategy(device="cuda:0" if topology.device is Device.cuda else "cpu")
    return {
        "accelerator": "gpu" if topology.device is Device.cuda else "cpu",
        "devices": topology.num_ranks_per_node,
        "num_nodes": topology.num_nodes,
        "strategy": strategy,
        "plugins": [environment],
    }


def _quieten_lightning() -> None:
    """Silence Lightning's start-up banner and its advice on things we do on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r"The `srun` command is available on your system but is not used.*",
        r".*GPU available but not used.*",
        r".*experimental feature.*",
        r".*LeafSpec.*is deprecated.*",
        r".*torch.distributed is disabled, unavailable or uninitialized.*",
        r".*The number of training batches.*is smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message=message)
