"""Published steps of training, and their memory: the rows of published.yaml, which predictions are held against.

Invariant: a row that is not fitted has no part in any constant of reached.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nemotron4_model.config import ModelConfig
from nemotron4_model.dtype import DType
from nemotron4_train.estimates.layout import Layout
from nemotron4_train.estimates.reached import Reached
from nemotron4_train.estimates.stack import Attention, Stack, megatron
from nemotron4_train.estimates.step_time import step_time
from nemotron4_train.job import Precision
from nemotron4_train.machine import load_machine

_DEVICES_PER_NODE, _SEQUENCE_LENGTH = 8, 4096


@dataclass(frozen=True, kw_only=True)
class PublishedStep:
    """One measured step."""

    run: str
    """The row's name."""
    source: str
    model: ModelConfig
    machine: str
    layout: Layout
    stack: Stack
    seconds: float
    is_fitted: bool
    """Whether the constants of reached.py are fitted on it."""
    mfu: float | None = None
    """As it was published."""
    num_tokens: int | None = None
    """That the published run trained on with such steps."""
    days: float | None = None
    """That they took, as published."""

    def predicted_seconds(self, reached: Reached = Reached()) -> float:  # noqa: B008 (frozen)
        """What the planner predicts for it."""
        return step_time(self.model, self.layout, load_machine(self.machine), reached, self.stack).total_seconds


@dataclass(frozen=True, kw_only=True)
class PublishedMemory:
    """The memory of one GPU in a measured run."""

    run: str
    source: str
    model: ModelConfig
    layout: Layout
    allocated_gigabytes: float
    """Between steps."""
    peak_gigabytes: float
    """In a step, activations included."""


@cache
def published_steps() -> tuple[PublishedStep, ...]:
    """All rows, in the order of the file."""
    content = _content()
    return tuple(
        PublishedStep(
            run=row["run"],
            source=row["source"],
            model=ModelConfig.preset(row["model"]),
            machine="h100_sxm",
            layout=_layout(row, content["stacks"][row["stack"]], gpus),
            stack=_stack(content["stacks"][row["stack"]]),
            seconds=seconds,
            is_fitted=row.get("fitted", False),
            mfu=row.get("mfu", {}).get(gpus),
            num_tokens=row["billion_tokens"][gpus] * 10**9 if "billion_tokens" in row else None,
            days=row.get("days", {}).get(gpus),
        )
        for row in content["steps"]
        for gpus, seconds in row["steps"].items()
    )


@cache
def published_memory() -> tuple[PublishedMemory, ...]:
    """All rows, in the order of the file."""
    content = _content()
    return tuple(
        PublishedMemory(
            run=row["run"],
            source=row["source"],
            model=ModelConfig.preset(row["model"]),
            layout=_layout(row, content["stacks"][row["stack"]], row["gpus"]),
            allocated_gigabytes=row["allocated_gigabytes"],
            peak_gigabytes=row["peak_gigabytes"],
        )
        for row in content["memory"]
    )


def published_step(model: ModelConfig, layout: Layout) -> PublishedStep | None:
    """The published bf16 step of such a model on as many devices, with the same tensor size and batch; None if none.

    Micro-batch, recomputation and sharding may differ: they are the program's, not the experiment's.
    """
    wanted = _experiment(model, layout)
    found = (step for step in published_steps() if _experiment(step.model, step.layout) == wanted)
    return next(found, None) if layout.pipeline == 1 and layout.compute is Precision.bf16 else None


def _experiment(model: ModelConfig, layout: Layout) -> tuple[object, ...]:
    shape = (model.num_parameters, model.num_layers, model.hidden_size, model.query_width, model.key_value_width)
    batch = (layout.global_batch_size, layout.sequence_length)
    return (*shape, layout.num_devices, layout.tensor, layout.pipeline, *batch, layout.compute)


def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return content


def _layout(row: dict[str, Any], stack: dict[str, Any], gpus: int) -> Layout:
    pipeline = row.get("pipeline", 1)
    return Layout(
        shard=gpus // row["tensor"] // pipeline,
        tensor=row["tensor"],
        pipeline=pipeline,
        virtual_stages=row.get("virtual_stages", 1),
        devices_per_node=_DEVICES_PER_NODE,
        micro_batch_size=row["micro_batch_size"],
        global_batch_size=round(gpus * row["sequences_per_gpu"]),
        sequence_length=_SEQUENCE_LENGTH,
        compute=Precision(row.get("compute", "bf16")),
        reduce=DType(stack["reduce"]),
    )


def _stack(row: dict[str, Any]) -> Stack:
    return megatron(attention=Attention[row["attention"]], pipelines_tensor=row["pipelines_tensor"])
