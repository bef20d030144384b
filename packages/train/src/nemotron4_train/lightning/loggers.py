"""The loggers beside our CSV files: TensorBoard, Weights & Biases, MLflow. One run of theirs is one run directory.

Invariant: a resumed run goes on in the run of theirs that it had before, whose name is kept in the run directory.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from nemotron4_data.staging import write_file
from nemotron4_train.job import TrainJob


def make_loggers(job: TrainJob, run_directory: Path, first_step: int) -> list[Logger]:
    """Those that the job asks for; for rank 0."""
    loggers: list[Logger] = []
    if job.logger.tensorboard:
        loggers.append(TensorBoardLogger(run_directory, name="tensorboard", version="", purge_step=first_step))
    settings = json.loads(json.dumps(asdict(job), default=lambda value: value.name))
    if job.logger.wandb:
        loggers.append(_wandb(job, run_directory))
        loggers[-1].log_hyperparams(settings)
    if job.logger.mlflow:
        loggers.append(_mlflow(job, run_directory, settings))
    return loggers


def finish(loggers: list[Logger]) -> None:
    """End what would otherwise take in the next run of this process, as in a sweep."""
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


def _mlflow(job: TrainJob, run_directory: Path, settings: dict[str, Any]) -> MLFlowLogger:
    identity = run_directory / "mlflow_run_id"
    logger = MLFlowLogger(
        experiment_name=job.logger.mlflow_experiment,
        run_name=_shown_name(job, run_directory),
        tracking_uri=job.logger.mlflow_tracking_uri or os.environ["MLFLOW_TRACKING_URI"],
        run_id=identity.read_text() if identity.is_file() else None,
    )
    if not identity.is_file():
        assert logger.run_id is not None
        write_file(identity, logger.run_id.encode())
        logger.log_hyperparams(settings)
    return logger


def _shown_name(job: TrainJob, run_directory: Path) -> str:
    return f"{job.run.name}-{run_directory.resolve().name}"
