"""Which language a document is counted under, natural or programming."""

from __future__ import annotations

from .document_fields import Document


def language_of(document: Document) -> str:
    """The document's `language`; without one, `en` for the domain `english`, otherwise the category of its source."""
    domain, _, category = document["source"].partition("/")
    return str(document.get("language") or ("en" if domain == "english" else category))
