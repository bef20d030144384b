"""Any amount of text out of the shipped sample: its documents, then copies in which words are exchanged.

A copy takes one word in eight from elsewhere in the same document, so that scripts, languages and lengths stay those of
the sample while few runs of five words survive: it is no near duplicate. One document in twenty is copied as it is and
one with a word in two hundred exchanged, for deduplication to find. What is made reads as nonsense; it serves only to
measure time.
"""

import json
import lzma
import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from nemotron4_data.curation.words import UNSPACED, language_of
from nemotron4_data.documents import json_line

Documents = list[dict[str, Any]]
_EXCHANGED = (1 / 8, 1 / 200, 0)
_SHARES = (0.9, 0.05, 0.05)
_SPACE = re.compile(r"(\s+)")


def sample_documents() -> Documents:
    """All documents of the shipped sample."""
    documents = []
    for domain in ("english", "multilingual", "code"):
        with lzma.open(str(files("nemotron4_data") / "sample" / f"{domain}.jsonl.xz"), "rt", encoding="utf-8") as lines:
            documents += [json.loads(line) for line in lines]
    return documents


def made_documents(originals: Documents, num_bytes: int) -> Iterator[dict[str, Any]]:
    """The originals and then copies of them, each with an id of its own, until their texts have `num_bytes`."""
    words: list[list[str]] = []  # of each original
    for copy in count():
        draw = np.random.default_rng(copy)
        for number, document in enumerate(originals):
            if not copy:
                text = document["text"]
                words.append(_words(document))
            else:
                text = _exchanged(words[number], draw)
            yield {**document, "id": f"{copy}/{document['id']}", "text": text}
            num_bytes -= len(text.encode())
            if num_bytes <= 0:
                return


def write_raw(documents: Iterator[dict[str, Any]], folder: Path, file_documents: int = 5_000) -> int:
    """Write them as JSON Lines, in files of `file_documents`; returns how many documents there are."""
    total = 0
    for number in count():
        some = list(islice(documents, file_documents))
        if not some:
            return total
        (folder / f"{number:05}.jsonl").write_bytes(b"".join(map(json_line, some)))
        total += len(some)
    raise AssertionError("endless")


def _words(document: dict[str, Any]) -> list[str]:
    """Words at even places and what separates them at odd ones; characters are words where there are no spaces."""
    text = document["text"]
    if language_of(document) in UNSPACED:
        return [part for character in text for part in (character, "")]
    return _SPACE.split(text)


def _exchanged(words: list[str], draw: np.random.Generator) -> str:
    num_words = (len(words) + 1) // 2
    size = round(num_words * draw.choice(_EXCHANGED, p=_SHARES))
    changed = list(words)
    for target, origin in (2 * draw.integers(num_words, size=(size, 2))).tolist():
        changed[target] = words[origin]
    return "".join(changed)
