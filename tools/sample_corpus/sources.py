"""The table of sources as typed rows: sources.yaml in, `Source` objects out, licences checked against those allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DOMAINS = ("english", "multilingual", "code")

#: Language codes of the Nemotron-4 report (arXiv 2402.16819, figure on multilingual data), without English.
LANGUAGES = (
    "ar", "az", "bg", "bn", "ca", "cs", "da", "de", "el", "es", "et", "fa", "fi", "fr", "gl", "he", "hi", "hr",
    "hu", "hy", "id", "is", "it", "ja", "ka", "kk", "kn", "ko", "lt", "lv", "mk", "ml", "mr", "ne", "nl",
    "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One row of sources.yaml: one package read in one way for one category."""

    domain: str
    package: str
    reader: str
    license: str
    cap_kb: int
    category: str | None = None
    registry: str = "deb"
    include: str = ""
    exclude: str | None = None
    require: str | None = None
    note: str = ""

    @property
    def origin(self) -> str:
        """The package name without a version pin."""
        return re.sub(r"(?<!^)@[^/]*$", "", self.package)

    def wants(self, path: str) -> bool:
        """Whether a member of the archive belongs to this row."""
        if not re.search(self.include, path):
            return False
        return not (self.exclude and re.search(self.exclude, path))


def load_sources(path: Path) -> list[Source]:
    """Read the table.

    Raises:
        ValueError: a row names a licence that `licenses_allowed` lacks.
    """
    table: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    allowed = set(table["licenses_allowed"])
    sources = []
    for domain in DOMAINS:
        for row in table[domain]:
            source = Source(domain=domain, **({"reader": "plain"} | row))
            if source.license not in allowed:
                raise ValueError(
                    f"{path.name}: {domain}/{source.package}: license {source.license!r} is not in licenses_allowed; "
                    "drop the row or, after reading the copyright file, allow the licence"
                )
            sources.append(source)
    return sources


def load_allowed_licenses(path: Path) -> list[str]:
    """The licences a row may carry, in the order of the table."""
    return list(yaml.safe_load(path.read_text(encoding="utf-8"))["licenses_allowed"])
