"""The loggers besides our CSV files: TensorBoard, Weights & Biases, MLflow. A run directory is one run in each of them.

Invariant: a resumed run continues the run that it had in each logger before, whose id is kept in the run directory.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from nemotron4_common.staging import write_file
from nemotron4_common.system_errors import naming_place
from nemotron4_train.job import TrainJob


def make_loggers(job: TrainJob, run_directory: Path, first_step: int) -> list[Logger]:
    """The loggers that the job enables; for rank 0 only."""
    loggers: list[Logger] = []
    if job.logger.tensorboard:
        loggers.append(_TensorBoard(run_directory, name="tensorboard", version="", purge_step=first_step + 1))
    settings = json.loads(json.dumps(asdict(job), default=lambda value: value.name))
    if job.logger.wandb:
        loggers.append(_wandb(job, run_directory))
        loggers[-1].log_hyperparams(settings)
    if job.logger.mlflow:
        loggers.append(_mlflow(job, run_directory, settings))
    return loggers


class _TensorBoard(TensorBoardLogger):
    """Writes in its own thread, whose error is raised by each later call, and reported only by those."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        threading.excepthook = _report_thread_error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._naming_place():
            super().log_metrics(metrics, step)

    def save(self) -> None:
        with self._naming_place():
            super().save()

    def finalize(self, status: str) -> None:
        with self._naming_place():
            super().finalize(status)

    def _naming_place(self) -> AbstractContextManager[None]:
        return naming_place(Path(self.log_dir), "make room, or turn it off with logger.tensorboard=false")


_default_excepthook = threading.excepthook


def _report_thread_error(failed: threading.ExceptHookArgs) -> None:
    if type(failed.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
        _default_excepthook(failed)


def finish(loggers: list[Logger]) -> None:
    """Close loggers that would otherwise record the next run of this process too, as in a sweep."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _wandb(job: TrainJob, run_directory: Path) -> WandbLogger:
    identity = run_directory / "wandb_run_id"
    if not identity.is_file():
        write_file(identity, secrets.token_hex(8).encode())
    return WandbLogger(
        name=_shown_name(job, run_directory),
        id=identity.read_text(),
        save_dir=run_directory,
        project=job.logger.wandb_project,
        entity=job.logger.wandb_entity,
    )


class _MLflow(MLFlowLogger):
    """Spells names uniquely in the characters that MLflow allows: Lightning drops the others."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({_spelled(name): value for name, value in metrics.items()}, step)


def _spelled(name: str) -> str:
    """`code/c++` as `code/c plus plus`. Our names have no spaces, so no two are spelled alike."""
    return name.replace("+", " plus").replace("#", " sharp")


def _spelled_keys(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {_spelled(name): _spelled_keys(value) for name, value in settings.items()}


def _mlflow(job: TrainJob, run_directory: Path, settings: dict[str, Any]) -> MLFlowLogger:
    identity = run_directory / "mlflow_run_id"
    logger = _MLflow(
        experiment_name=job.logger.mlflow_experiment,
        run_name=_shown_name(job, run_directory),
        tracking_uri=job.logger.mlflow_tracking_uri or os.environ["MLFLOW_TRACKING_URI"],
        run_id=identity.read_text() if identity.is_file() else None,
    )
    if not identity.is_file():
        assert logger.run_id is not None
        write_file(identity, logger.run_id.encode())
        logger.log_hyperparams(_spelled_keys(settings))
    return logger


def _shown_name(job: TrainJob, run_directory: Path) -> str:
    return f"{job.run.name}-{run_directory.resolve().name}"
