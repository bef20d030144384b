"""What a machine has too little of, memory or disk, as one line: the stage, the place, and the way out.

Libraries say it in errors of many kinds; what is none of these is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from .zstd import ZstdError

_NO_MEMORY = (
    *("Allocation error", "not enough memory"),  # Zstandard
    *("Cannot allocate memory", "failed to map segment"),  # of a library that is loaded
    "can't start new thread",
)
_MEMORY_KEYS = {
    "documents": "executor.num_workers, corpus.max_document_bytes or curation.dedup.memory_megabytes",
    "tokenizer": "tokenizer.train_bytes",
}
"""By stage: what lets it need less memory."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Let an error for want of memory say where it was met, also when it comes out of another process."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            error.add_note(place)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is raised for want of memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    kinds = (ImportError, RuntimeError, ZstdError, zstandard.ZstdError)
    return isinstance(error, kinds) and any(words in str(error) for words in _NO_MEMORY)


def in_one_line(error: Exception, stage: str, directory: str) -> OSError | None:
    """The error for the user, of a stage whose output goes to `directory`; None for one that needs no other words."""
    before = f"stage {stage}: " if stage else ""
    if is_out_of_memory(error):
        places = "".join(f" at {place}" for place in getattr(error, "__notes__", ()))
        keys = _MEMORY_KEYS.get(stage, "executor.num_workers")
        return OSError(f"{before}out of memory{places}: lower {keys}, and rerun: finished work is kept")
    if isinstance(error, OSError) and error.errno is not None:
        # The system's own message names no remedy and may span fields.
        place = error.filename or directory
        return OSError(f"{before}{place}: {error.strerror}: finished stages are kept, rerun when solved")
    return None


@contextmanager
def of_database(scratch: Path) -> Iterator[None]:
    """Let an error of DuckDB that disk or memory is full be an OSError that names its scratch directory."""
    import duckdb

    try:
        yield
    except (duckdb.OperationalError, duckdb.FatalException) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"stage documents: {scratch}: deduplication cannot go on ({reason}): free disk space there, or raise "
            f"curation.dedup.memory_megabytes where memory is free, and rerun: finished work is kept"
        ) from error
