"""Reads the table of sources, sources.yaml, as `Source` objects; checks that each licence is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from nemotron4_data.debian.rows import Row, load_rows


@dataclass(frozen=True, kw_only=True)
class Source(Row):
    """One row of sources.yaml: one package, read with one reader for one category."""

    license: str
    cap_kb: int
    require: str | None = None
    note: str = ""


def load_sources(path: Path) -> list[Source]:
    """Read the table.

    Raises:
        ValueError: a row names a licence that is not in `licenses_allowed`.
    """
    allowed = set(load_allowed_licenses(path))
    sources = load_rows(path, Source)
    for source in sources:
        if source.license not in allowed:
            raise ValueError(
                f"{path.name}: {source.domain}/{source.package}: license {source.license!r} is not in "
                "licenses_allowed; drop the row or, after reading the copyright file, allow the licence"
            )
    return sources


def load_allowed_licenses(path: Path) -> list[str]:
    """The licences that a row may have, in the order of the table."""
    return list(yaml.safe_load(path.read_text(encoding="utf-8"))["licenses_allowed"])
