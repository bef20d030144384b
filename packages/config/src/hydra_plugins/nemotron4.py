"""This project's Hydra launcher: composes and checks each job of a sweep here, and runs it in a clean process.

Hydra finds launchers only in modules of hydra_plugins. Every sweeper (Hydra's own, Optuna's) passes its batches of
overrides to `launch`. Invariants: composition happens only here; each job gets its own directory inside the sweep's,
and a `run.dir`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from nemotron4_common.staging import write_file
from nemotron4_config.errors import explain
from nemotron4_config.job_file import render_job
from nemotron4_config.sweep import Sweep, SweepRow, SweepState, job_digest
from nemotron4_config.sweep_job import JOB_FILE


class ProcessLauncher(Launcher):
    """hydra/launcher=processes."""

    def __init__(self, max_jobs_at_once: int) -> None:
        self.max_jobs_at_once = max_jobs_at_once

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra once per sweep; takes the sweep's lock."""
        if self.max_jobs_at_once < 1:
            raise ValueError(f"hydra.launcher.max_jobs_at_once ({self.max_jobs_at_once}): must be at least 1")
        if not config.hydra.sweep.dir:
            raise ValueError("hydra.sweep.dir (''): must name a directory; leave it out for one below run.root")
        self.context, self.config = hydra_context, config
        task = cast(Any, task_function)
        self.sweep: Sweep = task.sweep
        self.to_job: Callable[[DictConfig], Any] = task.to_job
        self.sweep.open(Path(config.hydra.sweep.dir))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra to run a batch; a failed job's objective is None, which Optuna counts as a failed trial."""
        setup_globals()
        batch = [self._compose(initial_job_idx + i, list(overrides)) for i, overrides in enumerate(job_overrides)]
        self.sweep.run(batch, self.max_jobs_at_once)
        returns = []
        for row, _ in batch:
            returns.append(JobReturn(overrides=row.overrides, status=JobStatus.COMPLETED))
            returns[-1].return_value = row.objective
        return returns

    def _compose(self, number: int, overrides: list[str]) -> tuple[SweepRow, Any]:
        """The row and the job; if the job cannot be composed, a failed row and None."""
        fixed = OmegaConf.to_container(self.config.hydra.overrides.task)  # unresolved, as typed
        assert isinstance(fixed, list)
        row = SweepRow(number, overrides, " ".join(text for text in overrides if text not in fixed))
        original = HydraConfig.instance().cfg
        try:
            config = self.context.config_loader.load_sweep_config(self.config, overrides)
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
                HydraConfig.instance().set_config(config)
                name = str(config.hydra.sweep.subdir)
                del config["hydra"]
            job = self.to_job(config)
            directory = Path(self.config.hydra.sweep.dir) / f"{name}_{job_digest(render_job(job))}"
            if hasattr(job, "run") and getattr(job.run, "dir", "") is None:
                job.run.dir = str(directory)
            directory.mkdir(parents=True, exist_ok=True)
            write_file(directory / JOB_FILE, render_job(job).encode())
            row.run_dir = str(directory)
        except Exception as error:  # whatever failed, the sweep continues and its table shows the error
            row.state, row.error = SweepState.failed, explain(error)
            return row, None
        finally:
            HydraConfig.instance().cfg = original
        return row, job


ConfigStore.instance().store(
    group="hydra/launcher",
    name="processes",
    node={
        "_target_": "hydra_plugins.nemotron4.ProcessLauncher",
        "max_jobs_at_once": "${oc.select:launcher.max_jobs_at_once,1}",
    },
)
