"""Deduplication of many similar documents: work stays linear, and pairs at the threshold are found."""

import random
from itertools import combinations, pairwise

import pytest

from nemotron4_data.curation.dedup import deduplicate
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.curation.near_duplicates import jaccard
from nemotron4_data.documents import FrameWriter

WORDS = [f"word{number}" for number in range(20_000)]


class Serial:
    def map(self, function, tasks):
        return map(function, tasks)


def drops_of(folder, texts, config):
    path = folder / "shard.jsonl.zst"
    writer = FrameWriter(path)
    for number, text in enumerate(texts):
        writer.write({"id": str(number), "text": text})
    writer.close()
    (drops,) = deduplicate([path], config, folder / "work", Serial())
    return {line: (drop.reason, int(drop.kept_id)) for line, drop in drops.items()}


def similarity(left, right):
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def shingles(text):
    return set(zip(*(text.split()[start:] for start in range(5)), strict=False))


@pytest.mark.parametrize("exact", [True, False])
def test_a_corpus_of_copies_is_compared_in_linear_time(tmp_path, monkeypatch, exact):
    compared = []
    monkeypatch.setattr(
        "nemotron4_data.curation.near_duplicates.jaccard", lambda *sets: compared.append(1) or jaccard(*sets)
    )
    words = random.Random(1).choices(WORDS, k=60)
    same, alike = " ".join(words), [" ".join([*words, f"tail{number}"]) for number in range(2_000)]
    drops = drops_of(tmp_path, [same] * 3_000 + alike, DedupConfig(exact=exact, near=True))
    reasons = {line: "exact" if exact and line < 3_000 else "near" for line in range(1, 5_000)}
    assert drops == {line: (reason, 0) for line, reason in reasons.items()}
    assert len(compared) < 10 * 5_000


def families(rng):
    """Versions of texts, each one word different from the one before."""
    for _ in range(40):
        words = rng.choices(WORDS, k=150)
        for _ in range(12):
            yield " ".join(words)
            words[rng.randrange(150)] = rng.choice(WORDS)


def template(rng):
    """Pairs of texts that share three quarters with all others and nearly everything with each other."""
    shared = rng.choices(WORDS, k=150)
    for _ in range(130):
        words = shared + rng.choices(WORDS, k=50)
        yield " ".join(words)
        words[rng.randrange(200)] = rng.choice(WORDS)
        yield " ".join(words)


def star(rng):
    """Texts about as far from each other as the threshold allows, all from one."""
    shared = rng.choices(WORDS, k=300)
    for _ in range(250):
        words = list(shared)
        for place in rng.sample(range(0, 300, 6), rng.randint(2, 9)):
            words[place] = rng.choice(WORDS)
        yield " ".join(words)


@pytest.mark.parametrize("make", [families, template, star])
def test_no_similar_texts_are_both_kept(tmp_path, make):
    rng = random.Random(7)
    texts = list(make(rng))
    rng.shuffle(texts)
    drops = drops_of(tmp_path, texts, DedupConfig(exact=True, near=True))
    sets = [shingles(text) for text in texts]
    pairs = [pair for pair in combinations(range(len(texts)), 2) if similarity(sets[pair[0]], sets[pair[1]]) >= 0.8]
    missed = [pair for pair in pairs if not drops.keys() & set(pair)]
    assert len(pairs) >= 130
    assert len(missed) <= 0.02 * len(pairs)
    for number, (reason, kept) in drops.items():
        assert kept < number
        assert kept not in drops
        assert similarity(sets[number], sets[kept]) >= (0.8 if reason == "near" else 1)


def test_a_chain_of_versions_keeps_what_nothing_kept_resembles(tmp_path):
    rng = random.Random(3)
    words = rng.choices(WORDS, k=200)
    texts = []
    for start in range(0, 190, 10):  # each step breaks ten shingles of 196: two steps are alike, three are not
        texts.append(" ".join(words))
        words[start + 2], words[start + 7] = rng.sample(WORDS, 2)
    drops = drops_of(tmp_path, texts, DedupConfig(near=True))
    sets = [shingles(text) for text in texts]
    kept = [number for number in range(len(texts)) if number not in drops]
    assert all(similarity(sets[older], sets[younger]) < 0.8 for older, younger in pairwise(kept))
    assert len(kept) > 5
    assert all(similarity(sets[number], sets[kept]) >= 0.8 for number, (_, kept) in drops.items())
