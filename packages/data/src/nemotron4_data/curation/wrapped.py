"""Paragraphs of text that is wrapped at a fixed width, as reST, manual pages and e-mails are.

Rules for web text treat a line as a paragraph. A text counts as wrapped if the width of its lines that another line
follows is 50 to 100 characters and many of them stop in the middle of a sentence; any other text is left unchanged.
"""

from __future__ import annotations

import re
from itertools import pairwise

_WIDTHS = (50, 100)
_WIDE_SHARE = 0.9  # the width is the 90th percentile: addresses and tables may be longer
_MIN_CONTINUED = 0.2
_SENTENCE_ENDS = (".", "!", "?", ":")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d+[.)]|\.\.)\s")


def unwrapped(text: str) -> str:
    """The text with the lines of each paragraph and list item joined, if it is wrapped; otherwise the text itself."""
    lines = [line.rstrip() for line in text.splitlines()]
    followed = [(line, following) for line, following in pairwise(lines) if line and following]
    widths = sorted(len(line) for line, _ in followed)
    if not widths or not _WIDTHS[0] <= widths[int(_WIDE_SHARE * (len(widths) - 1))] <= _WIDTHS[1]:
        return text
    if sum(_is_continued(*pair) for pair in followed) < _MIN_CONTINUED * len(followed):
        return text
    joined: list[str] = []
    before = ""
    for line in lines:
        if before and line and not _ITEM.match(line):
            joined[-1] += " " + line.lstrip()
        else:
            joined.append(line)
        before = line
    return "\n".join(joined)


def _is_continued(line: str, following: str) -> bool:
    return following.lstrip()[:1].islower() and not line.endswith(_SENTENCE_ENDS)
