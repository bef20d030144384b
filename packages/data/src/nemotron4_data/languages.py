"""Which language a document counts under, natural or programming."""

from __future__ import annotations

from .document_fields import Document


def language_of(document: Document) -> str:
    """The document's `language`; where it names none, `en` for English, else the category of its source."""
    domain, _, category = document["source"].partition("/")
    return str(document.get("language") or ("en" if domain == "english" else category))
