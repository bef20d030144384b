"""Published steps of training: the rows of published.yaml, which predictions are fitted on or held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from nemotron4_model.config import ModelConfig
from nemotron4_train.estimates.layout import Layout


@dataclass(frozen=True, kw_only=True)
class PublishedStep:
    """One measured step."""

    run: str
    """The row's name."""
    source: str
    model: ModelConfig
    machine: str
    layout: Layout
    seconds: float
    is_fitted: bool
    """Whether the constants of step_time.py are fitted on it."""


@cache
def published_steps() -> list[PublishedStep]:
    """All rows, in the order of the file."""
    rows = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))
    return [_step(row, gpus, seconds) for row in rows for gpus, seconds in row["steps"].items()]


def published_step(model: ModelConfig, layout: Layout) -> PublishedStep | None:
    """The published step of the same model, devices, tensor size, batch and sequence length, if there is one."""
    raise NotImplementedError


def published_seconds(model: ModelConfig, layout: Layout) -> float | None:
    """The published time of the same model, devices, tensor size, batch and sequence length, if there is one."""
    raise NotImplementedError


def _step(row: dict[str, object], gpus: int, seconds: float) -> PublishedStep:
    raise NotImplementedError
