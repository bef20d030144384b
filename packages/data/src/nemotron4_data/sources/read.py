"""One raw file of any format as records: the file's name selects the format.

Compression, Parquet and zip archives are recognised by the first bytes, whatever the name.

| suffix | records |
|---|---|
| .jsonl .ndjson | one per line |
| .parquet | one per row; read in place, so neither compressed again nor inside an archive |
| .txt .html .htm | one per file |
| .warc .wet | one per response, resource or conversion |
| .tar .tgz .zip | those of its members, which are streamed and never written to disk |

All but .parquet and .zip may also end in .gz, .xz, .zst or .bz2. `hf://datasets/NAME` gives the rows of a data set.

Invariant: whatever the bytes, reading ends, in bounded memory, and damage is reported as an item.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import IO

from ..prepare_job import CorpusConfig
from . import archives, hub, parquet, text, warc
from .places import HUB_SCHEME, RawFile
from .records import Record, Refusal
from .streams import COMPRESSIONS, DAMAGE, Bomb, Budget, Damaged, Unpacked, is_damage, unpack

_STREAMED = {
    ".jsonl": text.read_jsonl,
    ".ndjson": text.read_jsonl,
    ".txt": text.read_text,
    ".html": text.read_html,
    ".htm": text.read_html,
    ".warc": warc.read_warc,
    ".wet": warc.read_warc,
}
_COMPRESSIBLE = (*_STREAMED, ".tar")
SUFFIXES = (
    *(suffix + compression for suffix in _COMPRESSIBLE for compression in ("", *COMPRESSIONS)),
    *(".tgz", ".zip", ".parquet"),
)


def read_raw(file: RawFile, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """The records of a file in order. OSError if its disk or network fails; damage of the file is an item."""
    if file.location.startswith(HUB_SCHEME):
        yield from hub.read_dataset(file.location)
        return
    budget = Budget(file.size, config.max_expansion)
    with file.open() as opened:
        yield from _read(opened, file, budget, config)


def _read(opened: IO[bytes], file: RawFile, budget: Budget, config: CorpusConfig) -> Iterator[Record | Refusal]:
    kind = _kind(opened, file.path)
    if kind == ".parquet":
        yield from _to_damage(parquet.read_parquet(opened, budget, config), "", file.size, opened.tell)
    elif kind == ".zip":
        yield from _to_damage(_read_zip(opened, budget, config), "", file.size, opened.tell)
    else:
        stream, name = unpack(opened, file.path, budget, file.size)
        if name.lower().endswith(".tar"):
            items = _read_tar(stream, budget, config)
        else:
            items = _STREAMED[PurePosixPath(name.lower()).suffix](stream, PurePosixPath(name).name, config)
        yield from _to_damage(items, "", file.size, lambda: stream.source_bytes)


def _read_zip(opened: IO[bytes], budget: Budget, config: CorpusConfig) -> Iterator[Record | Refusal]:
    for name, member, size in archives.zip_members(opened):
        yield from _read_member(name, member, size, budget, config)


def _read_tar(stream: Unpacked, budget: Budget, config: CorpusConfig) -> Iterator[Record | Refusal]:
    try:
        for name, member, size in archives.tar_members(stream):
            yield from _read_member(name, member, size, budget, config)
        while rest := stream.read(1 << 20):
            if rest.strip(b"\0"):
                raise Damaged("data after the end mark of a tar archive")
    finally:
        stream.check()  # damage below the archive explains more than the error it causes in the archive


def _kind(opened: IO[bytes], path: str) -> str:
    """The suffix of a file's format; Parquet files and zip archives are recognised by content, whatever their name."""
    suffix = PurePosixPath(path.lower()).suffix
    if suffix in (".parquet", ".zip") or not opened.seekable():
        return suffix
    head = opened.read(4)
    if head == b"PAR1":  # a text might begin with it, but not also end with it
        is_parquet = opened.seek(-4, os.SEEK_END) >= 8 and opened.read(4) == b"PAR1"
        suffix = ".parquet" if is_parquet else suffix
    elif head == b"PK\3\4":
        suffix = ".zip"
    opened.seek(0)
    return suffix


def _read_member(
    name: str, member: IO[bytes] | Refusal, size: int, budget: Budget, config: CorpusConfig
) -> Iterator[Record | Refusal]:
    """Records of one member of an archive; its damage does not end the archive, unless it is a bomb."""
    if isinstance(member, Refusal):
        yield member
        return
    stream, inner = unpack(Unpacked(member, budget), name, budget, size)  # type: ignore[arg-type]  # only read() is needed
    read = _STREAMED.get(PurePosixPath(inner.lower()).suffix)
    if read is None:
        yield Refusal(name, "unsupported format in an archive")
        return
    yield from _to_damage(read(stream, inner, config), name, size, lambda: stream.source_bytes)


def _to_damage(
    items: Iterator[Record | Refusal], name: str, size: int | None, tell: Callable[[], int]
) -> Iterator[Record | Refusal]:
    """The items of a file, or of the member `name` of an archive; damage that ends them becomes the last item."""
    last = None
    try:
        for last in items:
            yield replace(last, position=f"{name} {last.position}".rstrip()) if name else last
    except DAMAGE as error:
        if not is_damage(error) or (name and isinstance(error, Bomb)):
            raise
        detail = f"{type(error).__name__}: {error}"
        unread = None
        if size is not None:
            read = tell() * (1 - getattr(error, "lost", 0.0)) if last else 0  # a truncated text or page gave nothing
            unread = (max(0, size - round(read)), size)
            detail += f" ({unread[0]} of {size} bytes not read)"
        reason = "decompression bomb" if isinstance(error, Bomb) else "damaged file"
        place = f"{name} after {last.position if last else 'the beginning'}".lstrip()
        yield Refusal(place, reason, detail.encode("utf-8", errors="backslashreplace"), unread)
