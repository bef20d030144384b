"""Unicode repair: text that was decoded with the wrong codec is restored to what was written (ftfy).

Only damage is repaired. Quotation marks, ligatures, full-width letters, line breaks, white space, markup and the choice
between composed and decomposed letters are style, and are kept.

Almost every text is whole, and ftfy looks for damage at every character of it. All that it repairs is a few characters
long and has one outside ASCII, so it first sees these with what is around them; only if it finds damage there does it
read the text.
"""

from __future__ import annotations

import re

import numpy as np

from ..document_fields import Document
from .config import RepairConfig

_REACH = 16  # the longest damage that ftfy looks for has 7 characters
_MAX_CHARACTERS = 1_000_000  # it cuts longer lines and looks at each part, which may begin differently
_MORE_DAMAGE = re.compile("\n[\u00c3\u00c2] |[\ud800-\udfff]")  # at the beginning of a line; lone surrogates


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
            explain=True,  # else the encoding is repaired without regard to these settings
        )

    def __call__(self, document: Document) -> None:
        """Replace the text by its repaired form."""
        text = document["text"]
        if not text.isascii() and (len(text) > _MAX_CHARACTERS or _may_be_damaged(text)):
            document["text"] = self._fix_text(text, self._settings)


def _may_be_damaged(text: str) -> bool:
    """False only if ftfy would leave the text, which is not ASCII, as it is."""
    from ftfy.badness import is_bad

    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4")
    places = np.flatnonzero(codes > 127)
    gaps = np.flatnonzero(np.diff(places) > 2 * _REACH)
    starts = np.maximum(places[np.concatenate([[0], gaps + 1])] - _REACH, 0).tolist()
    ends = (places[np.concatenate([gaps, [-1]])] + _REACH + 1).tolist()
    seen = "\n".join([text[start:end] for start, end in zip(starts, ends, strict=True)])
    return is_bad(seen) or _MORE_DAMAGE.search(seen) is not None
