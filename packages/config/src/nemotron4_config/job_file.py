"""job.yaml: the composed job as plain YAML, written once by the command line and read by every worker.

Invariant: `load_job(path, type(job))` of a file containing `render_job(job)` equals `job`, whatever its text contains:
nothing is interpolated a second time, and no worker runs Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from nemotron4_config.renamed import with_current_names

Job = TypeVar("Job")
_SCALARS: dict[type, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (float, int)}


def render_job(job: Any) -> str:
    """The job (a dataclass instance) as YAML text."""
    text: str = yaml.dump(_plain(job), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
    return text


def load_job(path: str | Path, job_type: type[Job]) -> Job:
    """Read a job file back into its dataclass; keys may have the names of an earlier version.

    Raises ValueError, naming the file, if it does not match the dataclass.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        job = _fit(job_type, with_current_names(content, job_type), "")
    except (_MisfitError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a {job_type.__name__} job file ({reason}); compose the job again") from error
    assert isinstance(job, job_type)
    return job


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes keep line ends, control characters and lone surrogates (file names that are not UTF-8).
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.name if isinstance(value, Enum) else value


class _MisfitError(Exception):
    """A value in the file is not of the type that the job declares."""


def _fit(kind: Any, value: Any, key: str) -> Any:
    """A value of the file, converted to the type of its key."""
    if is_dataclass(kind):
        return _fit_dataclass(kind, value, key)
    origin, arguments = get_origin(kind), get_args(kind)
    if NoneType in arguments:
        (kind,) = set(arguments) - {NoneType}
        return None if value is None else _fit(kind, value, key)
    if origin is list and isinstance(value, list):
        return [_fit(arguments[0], each, f"{key}[{number}]") for number, each in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {_fit(str, name, key): _fit(arguments[1], each, f"{key}.{name}") for name, each in value.items()}
    if origin is None and issubclass(kind, Enum) and isinstance(value, str) and value in kind.__members__:
        return kind[value]
    if origin is None and type(value) in _SCALARS.get(kind, ()):
        return kind(value)
    raise _MisfitError(f"{key}: {value!r} is not of type {kind.__name__ if origin is None else kind}")


def _fit_dataclass(kind: Any, value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise _MisfitError(f"{key or 'the file'}: {value!r} is not of type {kind.__name__}")
    known = {field.name: field for field in fields(kind)}
    path = f"{key}." if key else ""
    for name in value:
        if name not in known:
            raise _MisfitError(f"{path}{name}: unknown key")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise _MisfitError(f"{path}{name}: missing")
    hints = get_type_hints(kind)
    return kind(**{name: _fit(hints[name], each, f"{path}{name}") for name, each in value.items()})
