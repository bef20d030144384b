"""Which language a document counts under, natural or programming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def language_of(document: Mapping[str, Any]) -> str:
    """The document's `language`; where it names none, `en` for English, else the category of its source."""
    domain, _, category = document["source"].partition("/")
    return str(document.get("language") or ("en" if domain == "english" else category))
