"""The whole training loop, started by `launch(TrainJob)`: saves, a signal, resuming, another device, the export.

The runs are forked from this part's process, which therefore must not use CUDA before the last of them.
"""

from __future__ import annotations

import csv
import functools
import json
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, state_dict_loader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from nemotron4_data import Corpus
from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_model import load_pretrained
from nemotron4_train.checkpoints.export import ExportJob, export_checkpoint
from nemotron4_train.job import (
    DataConfig,
    LoggerConfig,
    OptimizerConfig,
    Precision,
    PrecisionConfig,
    RunConfig,
    TrainerConfig,
    TrainJob,
)
from nemotron4_train.launcher_config import LauncherConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape
from nemotron4_train.topology import Device, TopologyConfig

from .context import Context
from .frame import Check, CheckFailedError, Figures, NotApplicableError, require
from .models import random_tokens

_STEPS, _SAVE, _VALIDATE, _SIGNAL = 12, 4, 6, 6
_BATCH, _MICRO_BATCHES = 8, 2
_ARITHMETIC = ("step", "tokens", "loss", "lr", "grad_norm")
"""Columns of metrics.csv that have nothing to do with speed."""
_STOPPED = 75
_LIMIT_SECONDS = 90.0


def _once(work: Callable[[Context], None]) -> Callable[[Context], None]:
    """`work`, done once in this process; its error is raised again, as its directories are in use."""
    outcome: list[Exception | None] = []

    def done(context: Context) -> None:
        if not outcome:
            outcome.append(None)
            try:
                work(context)
            except Exception as error:
                outcome[0] = error
        if outcome[0] is not None:
            raise outcome[0]

    return done


def _job(context: Context, name: str, device: str, resume: str = "auto", asynchronous: bool = True) -> TrainJob:
    assert context.corpus is not None
    corpus = Corpus.open(context.corpus)
    domains = {source.split("/")[0] for source in corpus.source_names}
    phase = Phase(
        tokens=_STEPS * _BATCH * context.sizes.loop_tokens,
        blend="all",
        global_batch_size=_BATCH,
        sequence_length=context.sizes.loop_tokens,
        learning_rate=LearningRate(shape=Shape.constant, end_fraction=1.0),
    )
    return TrainJob(
        run=RunConfig(name="gpu_session", dir=str(context.scratch / name)),
        resume=resume,
        model=replace(context.sizes.loop, vocab_size=corpus.vocab_size),
        data=DataConfig(dir=str(context.corpus), verify=False),
        blend=BlendConfig(distributions={"all": Distribution(weights={name: 1 / len(domains) for name in domains})}),
        schedule=Schedule(phases={"all": phase}, shuffle_block_tokens=2 * context.sizes.loop_tokens),
        optimizer=OptimizerConfig(lr=1e-3),
        topology=TopologyConfig(device=Device[device], micro_batch_size=_BATCH // _MICRO_BATCHES),
        precision=PrecisionConfig(compute=Precision.bf16 if context.on_cuda else Precision.fp32),
        trainer=TrainerConfig(
            deterministic=True,
            save_interval_steps=_SAVE,
            keep_checkpoints=_STEPS,
            async_checkpoint=asynchronous,
            validation_interval_steps=_VALIDATE,
            validation_bytes_per_source=500,
        ),
        logger=LoggerConfig(tensorboard=False),
        launcher=LauncherConfig(num_threads=None if context.on_cuda else 1),
    )


def _start(job: TrainJob, stop: bool = False, count_syncs: bool = False) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=_run, args=(job, stop, count_syncs))
    process.start()
    return process


def _run(job: TrainJob, stop: bool, count_syncs: bool) -> None:
    """In a run's own process."""
    _at_each_step(functools.partial(_act, job, stop, count_syncs))
    launch(job, "")


def _at_each_step(act: Any) -> None:
    """Call `act(step)`, counted from 1, as each step's first micro-batch enters the model."""
    seen = 0

    def hook(module: torch.nn.Module, inputs: Any) -> None:
        nonlocal seen
        if type(module).__name__.endswith("Transformer") and torch.is_grad_enabled():
            if seen % _MICRO_BATCHES == 0:
                act(seen // _MICRO_BATCHES + 1)
            seen += 1

    torch.nn.modules.module.register_module_forward_pre_hook(hook)


_SYNCS: list[str] = []
_COUNTED = (9, 12)
"""The first step whose synchronisations are counted, and the one before which counting ends: no save, no validation."""


def _act(job: TrainJob, stop: bool, count_syncs: bool, step: int) -> None:
    if stop and step == _SIGNAL:
        os.kill(os.getpid(), signal.SIGTERM)
    if count_syncs and step == _COUNTED[0]:
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *ignored, **more: _SYNCS.append(str(message))  # type: ignore[assignment]  # less is enough
        torch.cuda.set_sync_debug_mode("warn")
    if count_syncs and step == _COUNTED[1]:
        torch.cuda.set_sync_debug_mode("default")
        found = [message for message in _SYNCS if "called a synchronizing CUDA operation" in message]
        assert job.run.dir is not None
        Path(job.run.dir, "syncs.json").write_text(json.dumps(found), encoding="utf-8")


def _wait(processes: dict[str, BaseProcess], statuses: tuple[int, ...]) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    try:
        for process in processes.values():
            process.join(max(0.1, deadline - time.monotonic()))
    finally:
        for process in processes.values():
            process.kill()
    for (name, process), status in zip(processes.items(), statuses, strict=True):
        process.join()
        require(process.exitcode == status, f"run {name}: ended with status {process.exitcode} instead of {status}")


@_once
def _first_runs(context: Context) -> None:
    """One run undisturbed, one stopped by a signal, one that saves synchronously."""
    if context.corpus is None:
        raise NotApplicableError("no corpus: make one with --prepare DIR, and give it as --corpus DIR")
    import_module("nemotron4_train.lightning.fit")  # once for all runs
    runs = {
        "whole": _start(_job(context, "whole", context.device), count_syncs=context.on_cuda),
        "stopped": _start(_job(context, "stopped", context.device), stop=True),
        "synchronous": _start(_job(context, "synchronous", context.device, asynchronous=False)),
    }
    _wait(runs, (0, _STOPPED, 0))


@_once
def _second_runs(context: Context) -> None:
    """The stopped run resumed, and a run on the CPU from the undisturbed one's checkpoint."""
    _first_runs(context)
    checkpoint = str(_checkpoint(context, "whole", 2 * _SAVE))
    runs = {
        "resumed": _start(_job(context, "stopped", context.device)),
        "cpu": _start(_job(context, "cpu", "cpu", resume=checkpoint)),
    }
    _wait(runs, (0, 0))


def resumed_run(context: Context) -> Figures:
    """A run that a signal stopped, and that was resumed, has the metrics, weights and optimiser of one undisturbed."""
    _first_runs(context)
    stopped_at = len(_metrics(context, "stopped"))
    _second_runs(context)
    whole, resumed = _metrics(context, "whole"), _metrics(context, "stopped")
    require(len(whole) == _STEPS, f"{len(whole)} steps instead of {_STEPS}")
    require(0 < stopped_at < _STEPS, f"the signal came after {stopped_at} steps")
    differ = [row["step"] for row, other in zip(whole, resumed, strict=True) if row != other]
    require(not differ, f"metrics differ at steps {', '.join(differ)}", {"whole": whole, "resumed": resumed})
    tensors = _require_same_tensors(context, "stopped", _STEPS)
    return {"steps": _STEPS, "stopped_after": stopped_at, "tensors": tensors, "last_loss": float(whole[-1]["loss"])}


def synchronous_saves(context: Context) -> Figures:
    """Saves that training waits for hold what those hold that it does not wait for."""
    _first_runs(context)
    return {"tensors": {step: _require_same_tensors(context, "synchronous", step) for step in (_SAVE, 2 * _SAVE)}}


def cpu_goes_on(context: Context) -> Figures:
    """A run on the CPU goes on from this device's checkpoint; the loss of its next step is the same."""
    _second_runs(context)
    found, wanted = (
        float(_metrics(context, name)[index]["loss"]) for name, index in (("cpu", 0), ("whole", 2 * _SAVE))
    )
    error = abs(found - wanted) / wanted
    require(error <= 1e-3, f"loss {found} instead of {wanted}")
    return {"loss_error": error}


def synchronisations(context: Context) -> Figures:
    """How often a step waits for the device: once is allowed."""
    context.require_cuda("a CPU has nothing to wait for")
    _first_runs(context)
    found = json.loads((context.scratch / "whole" / "syncs.json").read_text(encoding="utf-8"))
    each = len(found) / (_COUNTED[1] - _COUNTED[0])
    figures = {"a_step": each, "kinds": sorted(set(found))[:5]}
    require(each <= 1, f"{each} a step", figures)
    return figures


def export_in_transformers(context: Context) -> Figures:
    """transformers computes the logits that we compute from the export, in fp32."""
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise NotApplicableError(f"transformers cannot be imported ({error})") from error
    _second_runs(context)
    directory = context.scratch / "export"
    export_checkpoint(ExportJob(run=str(context.scratch / "whole"), dir=str(directory)), _job(context, "whole", "cpu"))
    ours = load_pretrained(directory, dtype=torch.float32, device=context.device)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(context.device)
    tokens = random_tokens(ours.config, 2, context.sizes.loop_tokens - 1, context.device)
    with torch.no_grad():
        error = float((ours(tokens) - theirs(tokens).logits).abs().max())
    require(error <= 1e-3, f"logits differ by {error:.2g}")
    return {"largest_difference": error}


def _metrics(context: Context, run: str) -> list[dict[str, str]]:
    path = context.scratch / run / "metrics.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: row[name] for name in _ARITHMETIC} for row in csv.DictReader(file)]


def _checkpoint(context: Context, run: str, step: int) -> Path:
    return context.scratch / run / "checkpoints" / f"step-{step:08d}"


def _require_same_tensors(context: Context, run: str, step: int) -> int:
    found, wanted = (_tensors(_checkpoint(context, name, step)) for name in (run, "whole"))
    differ = [name for name in wanted if name not in found or not torch.equal(found[name], wanted[name])]
    if differ or len(found) != len(wanted):
        raise CheckFailedError(f"step {step}: {len(differ)} of {len(wanted)} tensors differ: {', '.join(differ[:5])}")
    return len(wanted)


def _tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, by name."""
    reader = FileSystemReader(checkpoint)
    tensors = {
        name: torch.empty(stored.size, dtype=stored.properties.dtype)
        for name, stored in reader.read_metadata().state_dict_metadata.items()
        if isinstance(stored, TensorStorageMetadata)
    }
    state_dict_loader.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


CHECKS = (
    Check(resumed_run, 50),
    Check(synchronous_saves, 3),
    Check(cpu_goes_on, 3),
    Check(synchronisations, 1),
    Check(export_in_transformers, 15),
)
