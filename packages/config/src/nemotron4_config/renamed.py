"""Keys and values that once had another name: the one line that answers an old one, and the reading of old job files.

Invariant: an old name stands here only where it is not a key, or not a value, of the same job today.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

KEYS: Mapping[str, Mapping[str, str]] = {
    "EvalJob": {"corpus_dir": "data.dir"},
    "ExportJob": {"directory": "dir"},
    "VerifyJob": {"dir": "data.dir"},
}
"""Of a job, by the name of its dataclass: the old dotted key -> the key of today."""
_DTYPES = {"float32": "fp32", "bfloat16": "bf16"}
_LOADED = {"dtype": _DTYPES | {"auto": "null"}}
VALUES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "EvalJob": _LOADED,
    "ExportJob": {"dtype": _DTYPES},
    "GenerateJob": _LOADED,
}
"""Of a job: the dotted key of today -> its old values -> those of today; null empties the key."""


def check_names(overrides: Sequence[str], job_type: type) -> None:
    """Raise ValueError, which gives the name of today, for an override by an old key or with an old value."""
    keys, values = KEYS.get(job_type.__name__, {}), VALUES.get(job_type.__name__, {})
    for text in overrides:
        key, _, given = text.partition("=")
        key = key.lstrip("+~")
        if key in keys:
            raise ValueError(f"{key}: is now {keys[key]}; give {keys[key]}={given or 'VALUE'}")
        current = _current(given, values.get(key, {}))
        if current != given:
            raise ValueError(f"{key} ({given}): is now {current}")


def _current(given: str, names: Mapping[str, str]) -> str:
    """A value, or each of a sweep's values, by the names of today."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), given)


def with_current_names(content: Any, job_type: type) -> Any:
    """What a job file holds, by the names of today; of a key that it has by both names the new one counts."""
    if not isinstance(content, dict):
        return content
    for old, new in KEYS.get(job_type.__name__, {}).items():
        group, _, name = new.rpartition(".")
        parent = content.setdefault(group, {}) if group and old in content else content
        if old in content and isinstance(parent, dict):
            parent.setdefault(name, content.pop(old))
    for key, names in VALUES.get(job_type.__name__, {}).items():
        current = names.get(str(content.get(key)))
        if current is not None:
            content[key] = None if current == "null" else current
    return content
