"""Too little memory or disk, reported in one line: the stage, the place, and the way out.

Libraries raise many kinds of errors for it; any other error is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_MEMORY = (
    *("Allocation error", "not enough memory"),  # Zstandard
    *("Cannot allocate memory", "failed to map segment"),  # while a library is loaded
    "can't start new thread",
)
_MEMORY_KEYS = {
    "documents": "executor.num_workers, corpus.max_document_bytes or curation.dedup.memory_megabytes",
    "tokenizer": "tokenizer.train_bytes",
}
"""By stage: the settings that lower its memory use."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Add `place` to an error for lack of memory, including one from another process."""
    try:
        yield
    except Exception as error:  # always reraised
        if is_out_of_memory(error):
            error.add_note(place)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it was raised for lack of memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    is_of_library = isinstance(error, ImportError | RuntimeError) or type(error).__name__ == "ZstdError"
    return is_of_library and any(words in str(error) for words in _NO_MEMORY)


def in_one_line(error: Exception, stage: str, directory: str) -> OSError | None:
    """The error as the user sees it, for a stage whose output goes to `directory`; None if its own message will do."""
    before = f"stage {stage}: " if stage else ""
    if is_out_of_memory(error):
        places = "".join(f" at {place}" for place in getattr(error, "__notes__", ()))
        keys = _MEMORY_KEYS.get(stage, "executor.num_workers")
        return OSError(f"{before}out of memory{places}: lower {keys}, and rerun: finished work is kept")
    if isinstance(error, OSError) and error.errno is not None:
        # str(error) names no way out and mixes errno with paths.
        place = error.filename or directory
        return OSError(f"{before}{place}: {error.strerror}: fix this and rerun: finished stages are kept")
    return None


@contextmanager
def of_database(scratch: Path) -> Iterator[None]:
    """Turn DuckDB's errors for a full disk or memory into an OSError that names its scratch directory."""
    import duckdb

    try:
        yield
    except (duckdb.OperationalError, duckdb.FatalException) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"stage documents: {scratch}: deduplication cannot continue ({reason}): free disk space there, or raise "
            f"curation.dedup.memory_megabytes if memory is free, and rerun: finished work is kept"
        ) from error
