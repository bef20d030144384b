"""Unicode repair: text that was decoded with the wrong codec is restored to what was written (ftfy).

Only damage is repaired. Quotation marks, ligatures, full-width letters, line breaks, white space, markup and the choice
between composed and decomposed letters are style, and are kept.
"""

from __future__ import annotations

from ..document_fields import Document
from .config import RepairConfig


class Repair:
    """Repair mojibake in place; drops nothing."""

    name = "repair"

    def __init__(self, config: RepairConfig) -> None:
        from ftfy import TextFixerConfig, fix_text

        self.domains = config.domains
        self._fix_text = fix_text
        self._settings = TextFixerConfig(
            unescape_html=False,
            remove_terminal_escapes=False,
            # Taking a space for a lost U+00A0 would change white space.
            restore_byte_a0=False,
            # It would write U+FFFD, which carries less than the original.
            replace_lossy_sequences=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            uncurl_quotes=False,
            fix_line_breaks=False,
            remove_control_chars=False,
            normalization=None,
            explain=False,
        )

    def __call__(self, document: Document) -> None:
        """Replace the text by its repaired form."""
        if not document["text"].isascii():
            document["text"] = self._fix_text(document["text"], self._settings)
