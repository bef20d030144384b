"""One verb as a Hydra application: conf/<verb>.yaml + overrides -> one dataclass -> the package's function.

Invariants: composition happens once, here; the function receives a plain dataclass already validated by its
`__post_init__`; an unknown key is an error even with `+`. hydra_plugins/nemotron4.py runs sweeps (`-m`).
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemotron4_config.command import Command, load_attribute
from nemotron4_config.help_text import config_groups, help_text
from nemotron4_config.options import split_options
from nemotron4_config.overrides import typed_overrides
from nemotron4_config.sweep import Sweep, sweep_name

CONFIG_PATH = "pkg://nemotron4_config.conf"


class Task:
    """What Hydra calls for a single run; for a sweep it calls our launcher, which uses `to_job` and `sweep`."""

    def __init__(self, command: Command, check: Callable[[], None]) -> None:
        self._run, self._check = command.run, check
        self._job_type: type[Any] = load_attribute(command.job)
        self.sweep = Sweep(command)
        self.failure: Exception | None = None

    def to_job(self, config: DictConfig) -> Any:
        """The validated job of a composed config."""
        return to_job(config, self._job_type)

    def __call__(self, config: DictConfig) -> None:
        """Run the job; an exception it raises is stored in `failure`."""
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise ValueError("hydra/launcher: sweeps run on hydra/launcher=processes")
        self._check()
        try:
            load_attribute(self._run)(self.to_job(config))
        except Exception as error:  # raised again by the caller: raised here, it would make Hydra print its own line
            self.failure = error


def run_application(verb: str, command: Command, overrides: list[str], check: Callable[[], None]) -> int:
    """Compose and run one verb with Hydra's own command line; returns the exit status.

    `check` is called between composing and running, to raise an interruption that Hydra may have swallowed.
    """
    job_type: type[Any] = load_attribute(command.job)
    ConfigStore.instance().store(name="job", node=job_type)
    register_resolvers(command)
    if set(overrides) & {"-h", "--help"}:
        _, words = split_options([text for text in overrides if text not in ("-h", "--help")])
        given = typed_overrides(
            command.with_implied([text for text in words if "=" in text]), job_type, config_groups(), False
        )
        print(help_text(verb, command, given, [text for text in words if "=" not in text]), end="")
        return 0
    name = sweep_name(verb, overrides)
    options, given = split_options(overrides)
    given = command.with_implied(given)
    is_sweep = "--multirun" in options
    typed = typed_overrides(given, job_type, config_groups(), is_sweep)
    OmegaConf.register_new_resolver("sweep_name", lambda: name, replace=True)
    _adapt_optuna()
    task = Task(command, check)
    sys.argv = [f"nemotron4 {verb.replace('_', ' ')}", *options, *typed]
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and main.py writes the one line
    try:
        hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=verb)(task)()
    finally:
        os.environ.pop("HYDRA_FULL_ERROR") if full_error is None else os.environ.update(HYDRA_FULL_ERROR=full_error)
        task.sweep.close()
    if task.failure:
        raise task.failure
    if is_sweep and not task.sweep.rows:
        raise ValueError(f"-m ({' '.join(given)}): has no jobs; one of its lists is empty")
    return 1 if any(row.error for row in task.sweep.rows) else 0


def register_resolvers(command: Command) -> None:
    """Let interpolations of conf/ call the command's functions."""
    for name, reference in command.resolvers.items():

        def resolve(key: str, *, _root_: DictConfig, reference: str = reference) -> Any:
            return load_attribute(reference)(_root_, key)

        OmegaConf.register_new_resolver(name, resolve, replace=True)


def _adapt_optuna() -> None:
    """Configure Optuna's sweeper, if installed: failed trials don't stop it, and a rerun samples the same trials."""
    Plugins.instance()  # makes each plugin store its configuration
    store = ConfigStore.instance()
    if "optuna.yaml" not in store.list("hydra/sweeper"):
        return
    sweeper = store.load("hydra/sweeper/optuna.yaml").node
    sweeper.params = {}  # null would not accept hydra.sweeper.params={...}; the next line allows new keys
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
    """The validated dataclass of a composed config; raises ValueError for keys that the schema does not have."""
    _check_node(config, "")
    job = OmegaConf.to_object(config)  # interpolates, the only time: from here on text may contain `${...}`
    assert isinstance(job, job_type)
    return job


def _check_node(node: Any, path: str) -> None:
    """Check what OmegaConf does not: unknown keys with `+`, mappings in place of text, bad references, huge numbers."""
    if node._is_interpolation():
        _check_reference(node, path)
    elif isinstance(value := node._value(), int) and abs(value) >= 2**63:
        raise ValueError(f"{path} ({value}): must be below 2^63")
    if node._is_none() or node._is_missing() or not isinstance(node, DictConfig | ListConfig):
        return
    node_type = OmegaConf.get_type(node)
    known = [field.name for field in dataclasses.fields(node_type)] if dataclasses.is_dataclass(node_type) else None
    of_scalars = node._metadata.element_type in (str, int, float, bool)
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        child_path = f"{path}[{key}]" if isinstance(node, ListConfig) else f"{path}.{key}".lstrip(".")
        if known is not None and key not in known:
            raise ValueError(f"{child_path}: unknown key; {path or 'the job'} has: {', '.join(known)}")
        child = node._get_node(key)
        if of_scalars and isinstance(child, DictConfig | ListConfig):
            raise ValueError(f"{child_path} ({child}): must be one value, not a list or mapping; put text in quotes")
        _check_node(child, child_path)


def _check_reference(node: Any, path: str) -> None:
    reference = f"{path} ({node._value()})"
    try:
        found = node._dereference_node()
    except OmegaConfBaseException as error:
        if isinstance(error.__context__, ValueError | OSError):  # of a command's own resolver
            raise error.__context__ from error
        reason = str(error.msg or error).split("\n")[0]
        raise ValueError(f"{reference}: {reason}; write \\${{ if it is text, not a reference") from error
    if isinstance(node, DictConfig | ListConfig) and found._metadata.ref_type != node._metadata.ref_type:
        raise ValueError(f"{reference}: refers to a key of another type; name one of the same type as {path}")
