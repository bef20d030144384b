"""C4's rules (arXiv 1910.10683, section 2.2): documents without enough good lines of prose are dropped.

A good line ends in terminal punctuation, has at least three words, none of 1000 characters, and mentions neither
Javascript nor policies on terms, privacy or cookies. As in C4 only good lines are kept in the text, without citation
markers; with `remove_lines: false` they only decide about the document.

Differences: the list of bad words is not applied, repeated three-sentence spans are left to deduplication, sentences
are counted by their ends instead of by a trained splitter, and the punctuation of other scripts counts. Thai and Lao
have no such punctuation, and languages without spaces no word counts, so those rules are not applied to them. If lines
are wrapped at a fixed width, few of them end a sentence; a text that then has too few is judged by its paragraphs.
"""

from __future__ import annotations

import re

from ..document_fields import Document
from .heuristics_config import C4Config, rules_by_language
from .words import UNSPACED, language_of, word_lengths
from .wrapped import unwrapped

_UNPUNCTUATED = frozenset({"lo", "th"})
# Latin, CJK, Arabic and Urdu, Devanagari, Armenian, Ethiopic, Khmer, Burmese; then closing marks that may follow them.
_SPACED_ENDS, _OTHER_ENDS, _CLOSING = ".!?", "。！？؟۔।॥։።៕။", "\"'”’»」』"
_TERMINAL = tuple(_SPACED_ENDS + _OTHER_ENDS + _CLOSING)
_SENTENCE_END = re.compile(rf"[{_SPACED_ENDS}]+[{_CLOSING})\]]*(?=\s|$)|[{_OTHER_ENDS}]+")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICIES = re.compile(
    "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"  # of lower-cased lines
)


def count_sentences(line: str) -> int:
    """Sentences in a line that is not blank: the number of sentence ends, at least one."""
    return max(1, len(_SENTENCE_END.findall(line)))


class C4:
    """Drop or shorten a document; the reason is `lorem_ipsum` or the name of the setting."""

    name = "c4"

    def __init__(self, config: C4Config) -> None:
        self.domains = config.domains
        self._config = config
        self._by_language = rules_by_language(config, config.languages)

    def __call__(self, document: Document) -> str | None:
        """Judge the text by the rules of its declared language."""
        language, text = language_of(document), document["text"]
        rules = self._by_language.get(language, self._config)
        reason, lines = _judge(text, language, rules)
        if reason == "min_sentences" and (paragraphs := unwrapped(text)) != text:
            reason, lines = _judge(paragraphs, language, rules)
        if reason is None and rules.remove_lines:
            document["text"] = "\n".join(lines).strip()
        return reason


def _judge(text: str, language: str, rules: C4Config) -> tuple[str | None, list[str]]:
    """The reason to drop the text, and its good lines."""
    kept: list[str] = []
    num_sentences = 0
    for line in text.splitlines():
        line = line.strip()
        words = word_lengths(line)
        if words and max(words) > rules.max_word_length:
            continue
        line = _CITATION.sub("", line)
        if rules.terminal_punctuation and language not in _UNPUNCTUATED and not _is_terminated(line):
            continue
        if language not in UNSPACED and len(words) < rules.min_words_per_line:
            continue
        lowered = line.lower()
        if "lorem ipsum" in lowered:
            return "lorem_ipsum", []
        if "javascript" in lowered:
            continue
        if rules.curly_brackets and "{" in line:
            return "curly_brackets", []
        if _POLICIES.search(lowered):
            continue
        num_sentences += count_sentences(line)
        kept.append(line)
    if language not in _UNPUNCTUATED and num_sentences < rules.min_sentences:
        return "min_sentences", []
    return None, kept


def _is_terminated(line: str) -> bool:
    return line.endswith(_TERMINAL) and not line.endswith("...")
