"""Decontamination: a document that shares 13 words in a row with an evaluation item is dropped.

Words are those of GPT-3's rule (arXiv 2005.14165, appendix C): lower case, without punctuation. Unlike there, the
whole document is dropped, matches that are frequent in the corpus count too, and texts of fewer than 13 words cannot be
found (their number is in `ItemCount.short`). Each Han or kana character is a word.

The n-grams of all items are 64-bit hashes in one sorted array, 10 bytes each including the number of its benchmark: 10
million take 100 MB in each process, plus about 100 bytes for each different word. A document of 1000 words then matches
by chance with a probability below 1e-9.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron4_common.rules import require

from ..document_fields import Document
from ..documents import read_lines
from ..paths import matching_paths
from .config import DecontaminationConfig
from .words import normalised_words, stretches

_FORMATS = (".jsonl", ".json", ".tsv", ".txt")
_COMPRESSIONS = (".gz", ".xz", ".zst")


@dataclass
class ItemCount:
    """Texts of one benchmark: all, and those with too few words to be found."""

    texts: int = 0
    short: int = 0


def benchmark_files(config: DecontaminationConfig) -> dict[str, list[Path]]:
    """The files of each benchmark, sorted. ValueError for a pattern without a match or an unknown format."""
    found: dict[str, list[Path]] = {}
    for name, patterns in sorted(config.benchmarks.items()):
        key = f"curation.decontamination.benchmarks.{name}"
        for pattern in patterns:
            matches = matching_paths(pattern)
            require(bool(matches), key, pattern, "matches no file; correct the path or the glob")
            for match in matches:
                allowed = f"{', '.join(_FORMATS)} (also {', '.join(_COMPRESSIONS)})"
                require(_format(match) in _FORMATS, key, match, f"must end in one of {allowed}")
            found.setdefault(name, []).extend(matches)
        found[name] = sorted(set(found[name]))
    return found


class Decontamination:
    """Drop a document that holds a part of an evaluation item; the reason is the name of the benchmark.

    ValueError for a benchmark that cannot be read.
    """

    name = "decontamination"

    def __init__(self, config: DecontaminationConfig) -> None:
        self.domains = config.domains
        files = [(name, tuple(paths)) for name, paths in benchmark_files(config).items()]
        self._items = _load_items(tuple(files), config.ngram_words)

    @property
    def counts(self) -> dict[str, ItemCount]:
        """Texts by benchmark."""
        return self._items.counts

    def __call__(self, document: Document) -> str | None:
        """Look up every n-gram of the text; if several benchmarks match, the alphabetically first is named."""
        return self._items.find(document["text"])


class _Items:
    def __init__(self, ngram_words: int) -> None:
        self.counts: dict[str, ItemCount] = {}
        self._words: dict[str, int] = {}
        self._multipliers = np.array([_hash64(f"position {i}") | 1 for i in range(ngram_words)], np.uint64)
        self._hashes = np.empty(0, np.uint64)
        self._benchmarks = np.empty(0, np.uint16)

    def add(self, benchmark: str, texts: Iterator[str]) -> None:
        count = self.counts.setdefault(benchmark, ItemCount())
        hashes = [self._hashes]
        for text in texts:
            words = normalised_words(text)
            for word in words:
                if word not in self._words:
                    self._words[word] = _hash64(word)
            ngrams = self._ngrams(self._values(words))
            count.texts += 1
            count.short += not len(ngrams)
            hashes.append(ngrams)
        # np.unique keeps the first of equal hashes, and earlier benchmarks come first.
        added = np.concatenate(hashes)
        index = np.full(len(added) - len(self._hashes), len(self.counts) - 1, np.uint16)
        self._hashes, first = np.unique(added, return_index=True)
        self._benchmarks = np.concatenate([self._benchmarks, index])[first]

    def find(self, text: str) -> str | None:
        ngrams = self._ngrams(np.concatenate([self._values(normalised_words(part)) for part in stretches(text)]))
        if not len(ngrams) or not len(self._hashes):
            return None
        places = np.searchsorted(self._hashes, ngrams).clip(max=len(self._hashes) - 1)
        hits = places[self._hashes[places] == ngrams]
        return list(self.counts)[int(self._benchmarks[hits].min())] if len(hits) else None

    def _values(self, words: Sequence[str]) -> NDArray[np.uint64]:
        # A word that is in no item becomes 0: an n-gram with it matches only by chance.
        return np.fromiter(map(self._words.get, words, repeat(0)), np.uint64, len(words))

    def _ngrams(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        n = len(self._multipliers)
        if len(values) < n:
            return np.empty(0, np.uint64)
        hashes = np.zeros(len(values) - n + 1, np.uint64)
        for i, multiplier in enumerate(self._multipliers):
            hashes += values[i : len(values) - n + 1 + i] * multiplier
        return hashes


@lru_cache(maxsize=1)
def _load_items(files: tuple[tuple[str, tuple[Path, ...]], ...], ngram_words: int) -> _Items:
    items = _Items(ngram_words)  # once per process, however many shards it works on
    for name, paths in files:
        for path in paths:
            items.add(name, _read_texts(path))
    return items


def _hash64(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).digest(), "little")


def _format(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix


def _read_texts(path: Path) -> Iterator[str]:
    """Every text of a file separately: strings at any depth of JSON, cells of a table, paragraphs."""
    try:
        lines = (line.decode("utf-8") for line in read_lines(path))
        if _format(path) == ".jsonl":
            for line in lines:
                if line.strip():
                    yield from _strings(json.loads(line))
        elif _format(path) == ".json":
            yield from _strings(json.loads("\n".join(lines)))
        elif _format(path) == ".tsv":
            for line in lines:
                yield from line.split("\t")
        else:
            yield from "\n".join(lines).split("\n\n")
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"curation.decontamination.benchmarks ({path}): cannot be read ({error}); correct it"
        ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _strings(child)
