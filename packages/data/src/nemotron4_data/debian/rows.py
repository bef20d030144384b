"""The table of sources as typed rows: which package is read, how, and where its text is filed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .languages import language_of_code, language_of_file
from .shares import unit_hash
from .text import Text

DOMAINS = ("english", "multilingual", "code")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table: one package read in one way."""

    domain: str
    package: str
    reader: str = "plain"
    registry: str = "deb"
    category: str | None = None
    """Second half of `domain/category`; by default the language of the text, or of the file by its ending."""
    language: str | None = None
    """Natural language of the texts if paths do not tell."""
    license: str | None = None
    """Checked by hand; by default the label of the machine-readable copyright file is recorded."""
    include: str = ""
    """Regex that a member's path must match."""
    exclude: str | None = None
    """Regex that it must not match."""
    share: float = 1.0
    """Share of the members that is read, chosen by a hash of the path: for packages much larger than needed."""
    weight: float = 1.0
    """Factor on its claim to the domain's bytes, besides its size."""

    @property
    def origin(self) -> str:
        """The package name without a version pin."""
        return re.sub(r"(?<!^)@[^/]*$", "", self.package)

    def wants(self, path: str) -> bool:
        """Whether a member of the archive belongs to this row."""
        if not re.search(self.include, path) or (self.exclude and re.search(self.exclude, path)):
            return False
        if self.share < 1 and unit_hash(path) >= self.share:
            return False
        return self.domain != "code" or self.category is not None or language_of_file(path) is not None

    def file_under(self, text: Text) -> tuple[str, str] | None:
        """Source (domain/category) and language of a text, None if its language is not collected."""
        if self.domain == "code":
            language = self.category or language_of_file(text.name)
            return (f"code/{language}", language) if language else None
        if self.domain == "english":
            return (f"english/{self.category}", "en") if text.language in (None, "en") else None
        language = self.language or text.language
        return (f"multilingual/{language}", language) if language and language != "en" else None


R = TypeVar("R", bound=Row)


def load_rows(path: Path, row_type: type[R]) -> list[R]:
    """Read a table: domain -> rows. A row with `languages` stands for one package per language; {} is its code."""
    import yaml

    table: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = []
    for domain in DOMAINS:
        for row in table.get(domain) or []:
            codes = row.pop("languages", None)
            for code in codes or [None]:
                fields = dict(row)
                if code is not None:
                    fields |= {"package": row["package"].format(code), "language": language_of_code(code)}
                rows.append(row_type(domain=domain, **fields))
    return rows
