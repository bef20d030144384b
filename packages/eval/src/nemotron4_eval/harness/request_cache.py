"""Results of requests on disk, so that an evaluation that was stopped goes on where it was.

Invariant: a result is found only for the model, the tokens and the settings that it was computed with: all are in its
key. Results are written while requests are computed, at most WRITE_SECONDS after.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemotron4_infer import LoadedModel

WRITE_SECONDS = 1.0
"""What a kill can lose."""


class RequestCache:
    """A SQLite file of results, which several models and evaluations may share."""

    def __init__(self, path: Path, model: str) -> None:
        """Open or make the file; `model` names the weights and the format that they are computed in.

        ValueError, one line, if it is another kind of file; OSError if it cannot be made.
        """
        self._path, self._model = path, model
        path.parent.mkdir(parents=True, exist_ok=True)
        self._pending: list[tuple[bytes, str]] = []
        self._last_write = time.monotonic()
        try:
            self._database = sqlite3.connect(path, timeout=60)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID"
            )
        except sqlite3.OperationalError as error:
            raise OSError(f"{path}: cannot be used as a cache of results ({error})") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"cache ({path}): is not a cache of results ({error}); delete it or name another"
            ) from error

    def key(self, method: str, token_ids: Sequence[int], settings: Any) -> bytes:
        """The key of a request to this model."""
        content = json.dumps([self._model, method, list(token_ids), settings], sort_keys=True)
        return hashlib.sha256(content.encode()).digest()

    def get(self, key: bytes) -> Any:
        """The result, or None."""
        found = self._database.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def put(self, key: bytes, value: Any) -> None:
        """Keep a result, which JSON can hold and which is not None."""
        self._pending.append((key, json.dumps(value)))
        if time.monotonic() - self._last_write >= WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what was kept. It takes milliseconds, so that other evaluations do not wait for the file."""
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", self._pending)
        self._pending, self._last_write = [], time.monotonic()


def model_digest(loaded: LoadedModel) -> str:
    """Tells models apart: some numbers of each weight, which training changes, the configuration and the tokenizer."""
    digest = hashlib.sha256(f"{loaded.model.config} {loaded.tokenizer.sha256}".encode())
    for name, parameter in loaded.model.named_parameters():
        values = parameter.detach().flatten()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        for begin in range(0, len(values), max(1, len(values) // 8)):
            digest.update(values[begin : begin + 128].float().cpu().numpy().tobytes())
    return digest.hexdigest()
