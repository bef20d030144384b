"""One raw file of any format as records: the format is chosen by the file's name.

| suffix | records |
|---|---|
| .jsonl .ndjson | one a line |
| .parquet | one a row; read at its place, so not compressed again and not in an archive |
| .txt .html .htm | one a file |
| .warc .wet | one a response, resource or conversion |
| .tar .tgz .zip | those of its members, which are streamed and never written to disk |

All but .parquet and .zip may also end in .gz, .xz, .zst or .bz2. `hf://datasets/NAME` gives the rows of a data set.

Invariant: whatever the bytes, reading ends, in bounded memory, and damage is an item of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """The records of a file in order. OSError when its place fails; what is wrong with the file is an item."""
    if file.location.startswith(HUB_SCHEME):
        yield from hub.read_dataset(file.location)
        return
    budget = Budget(file.size, config.max_expansion)
    position = "the beginning"
    with file.open() as opened:
        try:
            for item in _read(opened, file.path, budget, config):
                position = item.position
                yield item
        except DAMAGE as error:
            if not is_damage(error):
                raise
            yield _damage(f"after {position}", error)


def _read(opened: IO[bytes], path: str, budget: Budget, config: CorpusConfig) -> Iterator[Record | Refusal]:
    suffix = PurePosixPath(path.lower()).suffix
    if suffix == ".parquet":
        yield from parquet.read_parquet(opened, budget, config)
    elif suffix == ".zip":
        for name, member in archives.zip_members(opened):
            yield from _read_member(name, member, budget, config)
    else:
        stream, name = unpack(opened, path, budget)
        if name.lower().endswith(".tar"):
            try:
                for name, member in archives.tar_members(stream):
                    yield from _read_member(name, member, budget, config)
                while rest := stream.read(1 << 20):
                    if rest.strip(b"\0"):
                        raise Damaged("data after the end mark of a tar archive")
            finally:
                stream.check()  # what is wrong below the archive tells more than what the archive makes of it
        else:
            yield from _STREAMED[PurePosixPath(name.lower()).suffix](stream, PurePosixPath(name).name, config)


def _read_member(
    name: str, member: IO[bytes] | Refusal, budget: Budget, config: CorpusConfig
) -> Iterator[Record | Refusal]:
    """Records of one member of an archive; its damage does not end the archive."""
    if isinstance(member, Refusal):
        yield member
        return
    position = "the beginning"
    try:
        stream, inner = unpack(Unpacked(member, budget), name, budget)  # type: ignore[arg-type]  # it reads, which is all
        read = _STREAMED.get(PurePosixPath(inner.lower()).suffix)
        if read is None:
            yield Refusal(name, "unsupported format in an archive")
            return
        for item in read(stream, inner, config):
            position = item.position
            yield replace(item, position=f"{name} {position}".rstrip())
    except Bomb:
        raise
    except DAMAGE as error:
        if not is_damage(error):
            raise
        yield _damage(f"{name} after {position}", error)


def _damage(position: str, error: BaseException) -> Refusal:
    reason = "decompression bomb" if isinstance(error, Bomb) else "damaged file"
    return Refusal(position, reason, f"{type(error).__name__}: {error}".encode("utf-8", errors="backslashreplace"))
