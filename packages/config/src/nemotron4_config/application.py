"""One verb as a Hydra application: conf/<verb>.yaml + overrides -> one dataclass -> the package's function.

Invariants: composition happens once, here; what the function receives is a plain dataclass already validated by its
`__post_init__`; an unknown key is refused also when written with `+`. In a sweep (`-m`) each job gets its own
`run.dir` below the sweep's directory, and a failed job is a row of its table, not the end of the sweep.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from nemotron4_config.command import Command, load_attribute
from nemotron4_config.errors import explain

CONFIG_PATH = "pkg://nemotron4_config.conf"


@dataclasses.dataclass
class SweepRow:
    """One job of a sweep: what was asked and what came of it."""

    overrides: list[str]
    """The job's own `key=value` overrides."""
    run_dir: str
    """Where the job wrote."""
    objective: float | None
    """What the job returned (for train: final validation bits per byte); None when it failed."""
    error: str | None
    """The one-line reason of a failed job."""


def run_application(verb: str, command: Command, overrides: list[str]) -> int:
    """Compose and run one verb with Hydra's own command line; returns the exit status."""
    job_type = load_attribute(command.job)
    ConfigStore.instance().store(name=f"{verb}_job", node=job_type)
    rows: list[SweepRow] = []
    failures: list[Exception] = []

    def task(config: DictConfig) -> float | None:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            return _run_sweep_job(command, config, job_type, rows)
        try:
            return cast("float | None", load_attribute(command.run)(to_job(config, job_type)))
        except Exception as error:  # raised again below: from in here Hydra would print a line of its own
            failures.append(error)
            return None

    sys.argv = [f"nemotron4 {verb.replace('_', ' ')}", *overrides]
    given = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and main.py writes the one line
    try:
        hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=verb)(task)()
    finally:
        os.environ.pop("HYDRA_FULL_ERROR") if given is None else os.environ.update(HYDRA_FULL_ERROR=given)
    if failures:
        raise failures[0]
    return 1 if any(row.error for row in rows) else 0


def to_job(config: DictConfig, job_type: type[Any]) -> Any:
    """The validated dataclass of a composed config; raises ValueError for keys the schema does not have."""
    _refuse_unknown_keys(config, "")
    OmegaConf.resolve(config)
    job = OmegaConf.to_object(config)
    assert isinstance(job, job_type)
    return job


def _refuse_unknown_keys(node: Any, path: str) -> None:
    """`+key=value` opens a structured node: refuse what its dataclass does not declare."""
    if isinstance(node, ListConfig):
        children = [(f"{path}[{i}]", node._get_node(i)) for i in range(len(node))] if not node._is_none() else []
    elif isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        node_type = OmegaConf.get_type(node)
        if dataclasses.is_dataclass(node_type):
            known = [field.name for field in dataclasses.fields(node_type)]
            for key in map(str, node):
                if key not in known:
                    full_key = f"{path}.{key}".lstrip(".")
                    raise ValueError(f"{full_key}: unknown key; {path or 'the job'} has: {', '.join(known)}")
        children = [(f"{path}.{key}".lstrip("."), node._get_node(key)) for key in map(str, node)]
    else:
        return
    for child_path, child in children:
        _refuse_unknown_keys(child, child_path)


def _run_sweep_job(command: Command, config: DictConfig, job_type: type[Any], rows: list[SweepRow]) -> float:
    sweep = HydraConfig.get().sweep
    directory = Path(sweep.dir)
    run_dir = directory / str(sweep.subdir)
    overrides = [text for text in HydraConfig.get().overrides.task if text]
    row = SweepRow(overrides=overrides, run_dir=str(run_dir), objective=None, error=None)
    rows.append(row)
    try:
        job = to_job(config, job_type)
        if hasattr(job, "run") and getattr(job.run, "dir", "") is None:
            job.run.dir = str(run_dir)
        row.objective = load_attribute(command.run)(job)
    except Exception as error:  # whatever failed, the sweep goes on and the table says what it was
        row.error = explain(error)
        print(f"sweep job {len(rows) - 1} ({' '.join(overrides)}) failed: {row.error}", file=sys.stderr)
    if command.summarise_sweep:
        load_attribute(command.summarise_sweep)(directory, rows)
    return float("nan") if row.objective is None else row.objective
