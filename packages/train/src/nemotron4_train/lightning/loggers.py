"""The loggers beside our CSV files: TensorBoard, Weights & Biases, MLflow. One run of theirs is one run directory.

Invariant: a resumed run goes on in the run of theirs that it had before.
"""

from __future__ import annotations

import json
import os
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
    name = f"{job.run.name}-{run_directory.resolve().name}"
    return WandbLogger(
        name=name,
        id=name[-64:],
        save_dir=run_directory,
        project=job.logger.wandb_project,
        entity=job.logger.wandb_entity,
    )


def _mlflow(job: TrainJob, run_directory: Path, settings: dict[str, Any]) -> MLFlowLogger:
    remembered = run_directory / "mlflow_run_id"
    logger = MLFlowLogger(
        experiment_name=job.logger.mlflow_experiment,
        run_name=f"{job.run.name}-{run_directory.resolve().name}",
        tracking_uri=job.logger.mlflow_tracking_uri or os.environ["MLFLOW_TRACKING_URI"],
        run_id=remembered.read_text() if remembered.is_file() else None,
    )
    if not remembered.is_file():
        assert logger.run_id is not None
        write_file(remembered, logger.run_id.encode())
        logger.log_hyperparams(settings)
    return logger
