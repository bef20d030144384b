"""One verb as a Hydra application: conf/<verb>.yaml + overrides -> one dataclass -> the package's function.

Invariants: composition happens once, here; what the function receives is a plain dataclass already validated by its
`__post_init__`; an unknown key is refused also when written with `+`. A sweep (`-m`) is hydra_plugins/nemotron4.py's.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from nemotron4_config.command import Command, load_attribute
from nemotron4_config.help_text import help_text
from nemotron4_config.sweep import Sweep, sweep_name

CONFIG_PATH = "pkg://nemotron4_config.conf"


class Task:
    """What Hydra calls for a single run; for a sweep it calls our launcher, which has the rest from here."""

    def __init__(self, command: Command) -> None:
        self._run = command.run
        self._job_type: type[Any] = load_attribute(command.job)
        self.sweep = Sweep(command)
        self.failure: Exception | None = None

    def to_job(self, config: DictConfig) -> Any:
        """The validated job of a composed config."""
        return to_job(config, self._job_type)

    def __call__(self, config: DictConfig) -> None:
        """Run the one job; keeps what it raises in `failure`."""
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise ValueError("hydra/launcher: sweeps run on hydra/launcher=processes")
        try:
            load_attribute(self._run)(self.to_job(config))
        except Exception as error:  # raised again by the caller: from in here Hydra would print a line of its own
            self.failure = error


def run_application(verb: str, command: Command, overrides: list[str]) -> int:
    """Compose and run one verb with Hydra's own command line; returns the exit status."""
    ConfigStore.instance().store(name=f"{verb}_job", node=load_attribute(command.job))
    if set(overrides) & {"-h", "--help"}:
        print(help_text(verb, [text for text in overrides if "=" in text and text[0] != "-"]))
        return 0
    name = sweep_name(verb, overrides)
    OmegaConf.register_new_resolver("sweep_name", lambda: name, replace=True)
    _adapt_optuna()
    task = Task(command)
    ordered = sorted(overrides, key=lambda text: text not in ("-m", "--multirun"))  # argparse takes none in the middle
    sys.argv = [f"nemotron4 {verb.replace('_', ' ')}", *ordered]
    given = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and main.py writes the one line
    try:
        hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=verb)(task)()
    finally:
        os.environ.pop("HYDRA_FULL_ERROR") if given is None else os.environ.update(HYDRA_FULL_ERROR=given)
        task.sweep.close()
    if task.failure:
        raise task.failure
    return 1 if any(row.error for row in task.sweep.rows) else 0


def _adapt_optuna() -> None:
    """Where Optuna's sweeper is installed: a failed trial is a row, and the same command asks for the same trials."""
    Plugins.instance()  # has each plugin store its configuration
    store = ConfigStore.instance()
    if "optuna.yaml" not in store.list("hydra/sweeper"):
        return
    sweeper = store.load("hydra/sweeper/optuna.yaml").node
    sweeper.params = {}  # its null takes no hydra.sweeper.params={...}, and without the next line no new keys
    OmegaConf.set_struct(sweeper.params, False)
    sweeper.max_failure_rate = 1.0
    sweeper.n_jobs = "${oc.select:launcher.max_jobs_at_once,1}"
    store.store(group="hydra/sweeper", name="optuna", node=sweeper)
    for file in store.list("hydra/sweeper/sampler"):
        sampler = store.load(f"hydra/sweeper/sampler/{file}").node
        if "seed" in sampler:
            sampler.seed = 1  # so that a rerun finds its complete jobs
            store.store(group="hydra/sweeper/sampler", name=file.removesuffix(".yaml"), node=sampler)


def to_job(config: DictConfig, job_type: type[Any]) -> Any:
    """The validated dataclass of a composed config; raises ValueError for keys the schema does not have."""
    _refuse_unknown_keys(config, "")
    job = OmegaConf.to_object(config)  # which interpolates, once: text may hold `${...}` from here on
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
