"""Renamed keys and values: the one-line error for an old name, and the reading of old job files.

Invariant: an old name is listed only if it is not a current key, or not a current value, of the same job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEYS: Mapping[str, Mapping[str, str]] = {
    "EvalJob": {"corpus_dir": "data.dir", "limit": "suite.limit", "output": "out"},
    "ExportJob": {"directory": "dir"},
    "VerifyJob": {"dir": "data.dir"},
}
"""For each job, by the name of its dataclass: old dotted key -> current key."""
DIRECTORIES = {"EvalJob": ("output",)}
"""For each job: old keys that named a file; the current key names a directory, proposed without the file's suffix."""
_DTYPES = {"float32": "fp32", "bfloat16": "bf16"}
_LOADED = {"dtype": _DTYPES | {"auto": "null"}}
VALUES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "EvalJob": _LOADED,
    "ExportJob": {"dtype": _DTYPES},
    "GenerateJob": _LOADED,
}
"""For each job: current dotted key -> old value -> current value; null unsets the key."""


def check_names(overrides: Sequence[str], job_type: type) -> None:
    """Raise ValueError, which gives the current name, for an override with an old key or value."""
    keys, values = KEYS.get(job_type.__name__, {}), VALUES.get(job_type.__name__, {})
    for text in overrides:
        key, _, given = text.partition("=")
        key = key.lstrip("+~")
        if key in keys:
            is_directory = key in DIRECTORIES.get(job_type.__name__, ())
            given = str(Path(given).with_suffix("")) if is_directory and given else given or "VALUE"
            raise ValueError(f"{key}: is now {keys[key]}{', a directory' * is_directory}; give {keys[key]}={given}")
        current = _current(given, values.get(key, {}))
        if current != given:
            raise ValueError(f"{key} ({given}): is now {current}")


def _current(given: str, names: Mapping[str, str]) -> str:
    """A value, or each of a sweep's values, by its current name."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), given)


def with_current_names(content: Any, job_type: type) -> Any:
    """The content of a job file with current names; if it has a key by both names, the new one counts."""
    if not isinstance(content, dict):
        return content
    for old, new in KEYS.get(job_type.__name__, {}).items():
        group, _, name = new.rpartition(".")
        parent = content.setdefault(group, {}) if group and old in content else content
        if old in content and isinstance(parent, dict):
            given = content.pop(old)
            if given and old in DIRECTORIES.get(job_type.__name__, ()):
                given = str(Path(given).with_suffix(""))
            parent.setdefault(name, given)
    for key, names in VALUES.get(job_type.__name__, {}).items():
        current = names.get(str(content.get(key)))
        if current is not None:
            content[key] = None if current == "null" else current
    return content
