"""Selects the documents of the corpus: removes duplicates, takes each domain's share, and chooses the held-out ones.

Everything is a function of document ids and texts (SHA-256 order), so a rebuild from the same packages gives the same
corpus.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from documents import Document
from rensa import RMinHash, RMinHashLSH

NUM_PERMUTATIONS = 128
JACCARD = 0.8
NGRAM_WORDS = 5
HELDOUT_SHARE = 0.04
#: A held-out document may share at most this part of its windows of WINDOW_CHARS characters with the training text.
MAX_SHARED = 0.1
WINDOW_CHARS = 100
WINDOW_STRIDE = 10

#: Words; a Chinese, Japanese or Thai character counts as a word.
WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]|\w+|[^\w\s]+")


def _rank(document: Document, salt: str) -> str:
    return hashlib.sha256(f"{salt}:{document.id}".encode()).hexdigest()


def take(documents: Iterable[Document], max_bytes: float) -> list[Document]:
    """Documents in hash order up to `max_bytes`."""
    taken, total = [], 0
    for document in sorted(documents, key=lambda d: _rank(d, "take")):
        if total + document.num_bytes <= max_bytes:
            taken.append(document)
            total += document.num_bytes
    return taken


def _shingles(text: str) -> set[str]:
    words = WORD.findall(text.lower())
    return {" ".join(words[i : i + NGRAM_WORDS]) for i in range(max(1, len(words) - NGRAM_WORDS + 1))}


def drop_duplicates(documents: Iterable[Document]) -> list[Document]:
    """The first of each set of equal or nearly equal documents (found by MinHash LSH, decided by exact Jaccard)."""
    index = RMinHashLSH(JACCARD, NUM_PERMUTATIONS, 16)
    kept: list[Document] = []
    texts: set[str] = set()
    ids: set[str] = set()
    for document in documents:
        normal = re.sub(r"\s+", " ", document.text)
        if normal in texts or document.id in ids:
            continue
        shingles = _shingles(document.text)
        signature = RMinHash(NUM_PERMUTATIONS, 42)
        signature.update(sorted(shingles))
        rivals = (_shingles(kept[key].text) for key in index.query(signature))
        if any(len(shingles & rival) >= JACCARD * len(shingles | rival) for rival in rivals):
            continue
        index.insert(len(kept), signature)
        kept.append(document)
        texts.add(normal)
        ids.add(document.id)
    return kept


def scale_to(target: float, amount: Callable[[float], float]) -> float:
    """The factor at which the increasing function `amount` reaches `target` (by bisection), or the largest tried."""
    low, high = 0.0, 64.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if amount(middle) < target else (low, middle)
    return high


def _windows(text: str, stride: int) -> list[str]:
    text = " ".join(text.split())
    return [text[i : i + WINDOW_CHARS] for i in range(0, max(1, len(text) - WINDOW_CHARS + 1), stride)]


def choose_heldout(documents: list[Document]) -> set[str]:
    """Ids of the held-out documents: about HELDOUT_SHARE of the bytes of each source, in hash order.

    Candidates (six times that share) are compared with all other documents; those that share long passages with others
    stay in training. `drop_leaks` compares the chosen ones again, with the final training text.
    """
    groups: dict[str, list[Document]] = defaultdict(list)
    for document in sorted(documents, key=lambda d: _rank(d, "heldout")):
        groups[document.source].append(document)
    candidates: set[str] = set()
    for group in groups.values():
        candidates |= _first_bytes(group, 6 * HELDOUT_SHARE)
    shared = _shared_windows(documents, candidates)
    chosen: set[str] = set()
    for group in groups.values():
        clean = [d for d in group if d.id in candidates and shared[d.id] <= MAX_SHARED]
        ranked = clean or sorted((d for d in group if d.id in candidates), key=lambda d: shared[d.id])
        chosen |= _first_bytes(ranked, HELDOUT_SHARE, sum(d.num_bytes for d in group))
    return chosen


def drop_leaks(documents: list[Document], heldout: set[str]) -> list[Document]:
    """Remove the training documents that share passages with a held-out document that shares too much with training."""
    shared = _shared_windows(documents, heldout)
    leaking = {name for name in heldout if shared[name] > MAX_SHARED}
    windows = {w for d in documents if d.id in leaking for w in _windows(d.text, WINDOW_STRIDE)}
    return [d for d in documents if d.id in heldout or not any(w in windows for w in _windows(d.text, 1))]


def _first_bytes(group: list[Document], share: float, total: int | None = None) -> set[str]:
    """Ids from the front of a group up to a share of its bytes; if few fit, also the one closest in size to the gap."""
    goal = share * (sum(d.num_bytes for d in group) if total is None else total)
    chosen, sum_bytes = set(), 0
    for document in group:
        if sum_bytes + document.num_bytes <= 1.1 * goal:
            chosen.add(document.id)
            sum_bytes += document.num_bytes
    rest = [d for d in group if d.id not in chosen]
    if rest and sum_bytes < 0.6 * goal:
        chosen.add(min(rest, key=lambda d: abs(d.num_bytes - (goal - sum_bytes))).id)
    return chosen


def _shared_windows(documents: list[Document], heldout: set[str]) -> dict[str, float]:
    """Fraction of the windows of each held-out document that also occur in a document that is not held out."""
    owners: dict[str, set[str]] = {}
    for document in documents:
        if document.id in heldout:
            owners[document.id] = set(_windows(document.text, WINDOW_STRIDE))
    wanted = set().union(*owners.values())
    found = {w for d in documents if d.id not in heldout for w in _windows(d.text, 1) if w in wanted}
    return {name: len(windows & found) / len(windows) for name, windows in owners.items()}
