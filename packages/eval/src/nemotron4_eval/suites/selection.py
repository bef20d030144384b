"""The tasks of a suite: those of its benchmarks, and those named one by one.

Invariant: a task's name is unique in a suite, and a name that nobody has is answered with the nearest names.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemotron4_common.rules import require
from nemotron4_eval.suites.suite import (
    HARNESS_PREFIX,
    TASKS_DIR,
    Benchmark,
    TaskSpec,
    benchmark_names,
    load_benchmark,
)


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """A task to run."""

    spec: TaskSpec
    benchmark: Benchmark | None
    """Whose it is; None for a task that no benchmark of ours has."""
    path: Path
    """Its YAML."""

    @property
    def tables(self) -> list[int]:
        """The paper's tables that it is a part of, sorted."""
        cells = self.benchmark.cells if self.benchmark else ()
        return sorted({cell.table for cell in cells if self.spec.name in cell.tasks})

    @property
    def metric(self) -> str | None:
        """The metric of its first cell; None without one."""
        cells = self.benchmark.cells if self.benchmark else ()
        return next((cell.metric for cell in cells if self.spec.name in cell.tasks), None)

    def config(self) -> dict[str, Any]:
        """The YAML as the harness reads it, with the name and the number of examples that the benchmark says."""
        from lm_eval.tasks._yaml_loader import load_yaml

        config: dict[str, Any] = load_yaml(self.path)
        if self.benchmark is None:
            return config
        for key in ("tag", "group"):
            config.pop(key, None)
        return config | {"task": self.spec.name, "num_fewshot": self.spec.shots}

    def digest(self) -> str:
        """SHA-256 of what defines it: its YAML and the files beside it."""
        digest = sha256(repr(self.spec).encode())
        for path in sorted(self.path.parent.iterdir()) if self.benchmark else [self.path]:
            if path.suffix in (".yaml", ".py") or path == self.path:
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()


def select_tasks(benchmarks: Sequence[Benchmark], names: Sequence[str]) -> list[SuiteTask]:
    """Tasks of the benchmarks, then those of `suite.tasks`: paths of YAMLs, or names.

    ValueError for an unknown one, and for one that has another's name, whose place in the tables it would take.
    """
    found = {spec.name: _of_benchmark(benchmark, spec) for benchmark in benchmarks for spec in benchmark.tasks}
    for name in names:
        task = _of_file(Path(name)) if _is_file(name) else _of_name(name)
        other = found.setdefault(task.spec.name, task)
        rule = f"its task has the name of another, {task.spec.name} of {other.path}; give it a name of its own"
        require(other.path.resolve() == task.path.resolve(), "suite.tasks", name, rule)
    return list(found.values())


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or Path(name).is_file()


def _of_benchmark(benchmark: Benchmark, spec: TaskSpec) -> SuiteTask:
    if spec.yaml.startswith(HARNESS_PREFIX):
        path = harness_tasks_dir() / spec.yaml.removeprefix(HARNESS_PREFIX)
    else:
        path = TASKS_DIR / benchmark.name / spec.yaml
    return SuiteTask(spec=spec, benchmark=benchmark, path=path)


def harness_tasks_dir() -> Path:
    """The folder of the harness's own tasks."""
    found = find_spec("lm_eval")
    assert found is not None, "the harness is checked for before tasks are selected"
    assert found.origin is not None
    return Path(found.origin).parent / "tasks"


def _of_file(path: Path) -> SuiteTask:
    from lm_eval.tasks._yaml_loader import load_yaml

    if not path.is_file():
        raise ValueError(f"suite.tasks ({path}): there is no such file; give the path of a task YAML of the harness")
    try:
        config: dict[str, Any] = load_yaml(path, resolve_func=False)
        name = config["task"]
        if not isinstance(name, str):
            raise TypeError("task: must be a name")
    except Exception as error:  # from the YAML, or the harness's reading of it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"suite.tasks ({path}): the harness cannot load it ({reason}); correct that file") from error
    return SuiteTask(spec=_outside_spec(name, path, config), benchmark=None, path=path)


def _outside_spec(name: str, path: Path, config: Mapping[str, Any]) -> TaskSpec:
    return TaskSpec(name=name, yaml=str(path), dataset="", shots=int(config.get("num_fewshot") or 0))


def _of_name(name: str) -> SuiteTask:
    ours = {
        spec.name: _of_benchmark(each, spec) for each in map(load_benchmark, benchmark_names()) for spec in each.tasks
    }
    if name in ours:
        return ours[name]
    theirs = harness_names()
    if name in theirs:
        return _of_file(theirs[name])
    near = difflib.get_close_matches(name, theirs | ours, n=3, cutoff=0.5)
    nearest = f"nearest: {', '.join(near)}" if near else "none is near"
    raise ValueError(
        f"suite.tasks ({name}): is neither heldout_continuation, nor a file, nor a task of a benchmark or of the LM"
        f" Evaluation Harness ({nearest}); give one of these, or the path of a task YAML"
    )


def harness_names() -> dict[str, Path]:
    """The YAMLs of the harness's own tasks by name; its index also reads what they include, which takes it 7 s."""
    found = {}
    for path in sorted(harness_tasks_dir().rglob("*.yaml")):
        if match := re.search(rb"^task: *[\"']?([\w.-]+)[\"']? *$", path.read_bytes(), re.MULTILINE):
            found[match[1].decode()] = path
    return found
