"""Deduplication against brute force on real documents, its rules of age, and its work files."""

import json
import random
import re
from collections import defaultdict
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.dedup import Drop, deduplicate
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.curation.shingles import distinct, jaccard, shingle_hashes
from nemotron4_data.documents import FrameWriter, read_lines
from nemotron4_data.executor import open_executor
from nemotron4_data.prepare_job import ExecutorConfig

BOTH = DedupConfig(exact=True, near=True)
WORDS = [f"word{number}" for number in range(5_000)]


class Serial:
    def map(self, function, tasks):
        return map(function, tasks)


class Backwards:
    """Runs the last task first, and returns results in order."""

    def map(self, function, tasks):
        return iter([function(task) for task in reversed(list(tasks))][::-1])


def write_shards(folder, *shards):
    paths = []
    for number, documents in enumerate(shards):
        paths.append(folder / f"{number:06}.jsonl.zst")
        writer = FrameWriter(paths[-1])
        for line, document in enumerate(documents):
            document = {"text": document} if isinstance(document, str) else document
            writer.write({"id": f"{number}/{line}", "source": "english/web", "split": "train", **document})
        writer.close()
    return paths


def drops_of(folder, *shards, config=BOTH, executor=Serial()):  # noqa: B008
    return list(deduplicate(write_shards(folder, *shards), config, folder / "work", executor))


def prose(seed, length=200):
    return random.Random(seed).choices(WORDS, k=length)


def changed(words, *places):
    words = list(words)
    for place in places:
        words[place] = f"other{place}"
    return " ".join(words)


# White space, ASCII punctuation but "_", that of Latin-1, and general punctuation: what parts words in spaced scripts.
SEPARATORS = r"\s\x00-/:-@\[-^`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\u2000-\u206f"


def naive_shingles(text, num_words=5):
    """Runs of words of a text in a spaced script."""
    words = re.findall(f"[^{SEPARATORS}]+", text.lower())
    if not words:
        return set()
    return {tuple(words[i : i + num_words]) for i in range(max(1, len(words) - num_words + 1))}


def similarity(left, right):
    return len(left & right) / max(1, len(left | right))


def test_equal_and_alike_texts_leave_the_oldest(tmp_path):
    base = prose(1)
    drops = drops_of(tmp_path, [" ".join(base), "short", changed(base, 100)], ["short", " ".join(prose(2)), "Short "])
    assert drops == [
        {2: Drop("near", "0/0")},
        {0: Drop("exact", "0/1"), 2: Drop("near", "0/1")},
    ]


def test_each_kind_can_be_off(tmp_path):
    base = prose(1)
    shard = [" ".join(base), changed(base, 100), " ".join(base)]
    for name, config, expected in (
        ("none", DedupConfig(), {}),
        ("exact", DedupConfig(exact=True), {2: Drop("exact", "0/0")}),
        ("near", DedupConfig(near=True), {1: Drop("near", "0/0"), 2: Drop("near", "0/0")}),
    ):
        (tmp_path / name).mkdir()
        assert drops_of(tmp_path / name, shard, config=config) == [expected]


def test_a_copy_of_held_out_text_is_dropped_whatever_its_age(tmp_path):
    base = prose(1)
    old = {"text": " ".join(base), "date": "1999-01-01"}
    heldout = {"text": changed(base, 100), "split": "heldout", "date": "2024-01-01"}
    assert drops_of(tmp_path, [old], [heldout]) == [{0: Drop("near", "1/0")}, {}]


@pytest.mark.parametrize(
    ("dates", "kept"),
    [(("2020-05-01", "2019"), 1), (("2019", "2020-05-01"), 0), ((None, "2020"), 1), (("soon", None), 0)],
)
def test_the_older_document_stays(tmp_path, dates, kept):
    documents = [{"text": "the same text", **({"date": date} if date else {})} for date in dates]
    assert drops_of(tmp_path, documents) == [{1 - kept: Drop("exact", f"0/{kept}")}]


def test_similarity_is_not_transitive(tmp_path):
    base = prose(1)
    # Each change breaks five of 196 shingles: two are alike up to four changes apart.
    first, second, third = changed(base), changed(base, 20, 60, 100), changed(base, 20, 60, 100, 130, 160, 190)
    shingles = [naive_shingles(text) for text in (first, second, third)]
    assert similarity(shingles[0], shingles[1]) > 0.8 < similarity(shingles[1], shingles[2])
    assert similarity(shingles[0], shingles[2]) < 0.8
    assert drops_of(tmp_path, [first, second, third]) == [{1: Drop("near", "0/0")}]


def test_copies_of_a_dropped_document_name_the_one_that_is_kept(tmp_path):
    base = prose(1)
    texts = [" ".join(base), changed(base, 100), changed(base, 100)]
    assert drops_of(tmp_path, texts) == [{1: Drop("near", "0/0"), 2: Drop("exact", "0/0")}]


def test_texts_without_words_are_only_equal(tmp_path):
    assert drops_of(tmp_path, ["...", "!!!", "...", ""]) == [{2: Drop("exact", "0/0")}]


def test_crowds_of_copies_stay_linear(tmp_path, monkeypatch):
    compared = []
    original = jaccard
    monkeypatch.setattr(
        "nemotron4_data.curation.near_duplicates.jaccard", lambda a, b: compared.append(1) or original(a, b)
    )
    base = prose(1, 60)
    alike = [f"{' '.join(base)} tail{number}" for number in range(400)]
    drops = drops_of(tmp_path, ["all the same"] * 1_000, alike)
    assert drops[0] == {line: Drop("exact", "0/0") for line in range(1, 1_000)}
    assert drops[1] == {line: Drop("near", "1/0") for line in range(1, 400)}
    assert len(compared) < 400 * 10


def test_the_result_does_not_depend_on_executor_or_order_of_work(tmp_path):
    rng = random.Random(3)
    documents = [prose(seed, 120) for seed in range(60)]
    texts = [changed(rng.choice(documents), *rng.sample(range(120), rng.randrange(4))) for _ in range(300)]
    shards = [texts[i : i + 75] for i in range(0, 300, 75)]
    expected = drops_of(make(tmp_path / "serial"), *shards)
    assert sum(map(len, expected)) > 100
    assert drops_of(make(tmp_path / "backwards"), *shards, executor=Backwards()) == expected
    with open_executor(ExecutorConfig(num_workers=2)) as executor:
        assert drops_of(make(tmp_path / "pool"), *shards, executor=executor) == expected


def make(folder):
    folder.mkdir()
    return folder


def test_a_killed_run_resumes_and_redoes_nothing_finished(tmp_path):
    base = prose(1)
    paths = write_shards(tmp_path, [" ".join(base), "a b c"], [changed(base, 100), "a b c"])
    expected = list(deduplicate(paths, BOTH, tmp_path / "work", Serial()))
    signatures = sorted((tmp_path / "work").glob("signatures-*"))
    assert len(signatures) == 2
    before = signatures[0].stat().st_mtime_ns
    signatures[1].unlink()
    next((tmp_path / "work").glob("*-drops.parquet")).unlink()
    (tmp_path / "work" / "left-over.partial").write_bytes(b"half")
    assert list(deduplicate(paths, BOTH, tmp_path / "work", Serial())) == expected
    assert signatures[0].stat().st_mtime_ns == before


def real_texts():
    texts = [
        json.loads(line)["text"]
        for path in sorted((files("nemotron4_data") / "sample").iterdir(), key=str)
        if path.name in ("english.jsonl.xz", "code.jsonl.xz")
        for line in read_lines(path)
    ]
    rng = random.Random(5)
    texts = rng.sample(texts, 800)
    copies = []
    while len(texts) + len(copies) < 2_000:
        words = re.split(r"(\s+)", rng.choice(texts))
        if len(words) < 120:
            continue
        for _ in range(max(1, int(len(words) * rng.uniform(0.0, 0.02)))):
            words[2 * rng.randrange(len(words) // 2)] = f"edit{rng.randrange(1_000)}"
        copies.append("".join(words))
    together = texts + copies
    rng.shuffle(together)
    return together


def test_recall_and_precision_on_real_documents(tmp_path):
    texts = real_texts()
    sets = [naive_shingles(text) for text in texts]
    holders = defaultdict(list)
    for number, shingles in enumerate(sets):
        for shingle in shingles:
            holders[shingle].append(number)
    shared = defaultdict(int)
    for numbers in holders.values():
        if len(numbers) <= 200:  # of boilerplate: pairs that share nothing rarer are no near duplicates
            for i, older in enumerate(numbers):
                for younger in numbers[i + 1 :]:
                    shared[older, younger] += 1
    pairs = [pair for pair in shared if similarity(sets[pair[0]], sets[pair[1]]) >= 0.8]
    assert len(pairs) > 500
    drops = drops_of(tmp_path, texts[:1_000], texts[1_000:])
    dropped = {1_000 * shard + line: drop for shard, found in enumerate(drops) for line, drop in found.items()}
    number_of = {f"{shard}/{line}": 1_000 * shard + line for shard in range(2) for line in range(1_000)}
    # A pair is resolved when one of the two went: the younger because of the older, or either because of another.
    resolved = sum(older in dropped or younger in dropped for older, younger in pairs)
    assert resolved / len(pairs) >= 0.9
    for number, drop in dropped.items():
        assert number_of[drop.kept_id] not in dropped
        if drop.reason == "near":
            assert similarity(sets[number], sets[number_of[drop.kept_id]]) >= 0.8


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(["one", "Two", "thr33", "été", "привет", "a_b", "日本", "ก", "...", "x-y", "\n"]), max_size=30
    ),
    st.integers(1, 6),
)
def test_shingles_are_runs_of_words(parts, num_words):
    text = " ".join(parts)
    words = []
    for run in re.findall(r"[\w]+", text.lower()):
        words += re.findall(r"[\u4e00-\u9fff\u0e00-\u0fff]|[^\u4e00-\u9fff\u0e00-\u0fff]+", run)
    length = min(num_words, len(words))
    naive = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)] if words else []
    hashes = shingle_hashes(text, num_words)
    assert len(hashes) == len(naive)
    assert len(set(hashes.tolist())) == len(set(naive)) == len(distinct(hashes))
    places = defaultdict(set)
    for shingle, value in zip(naive, hashes.tolist(), strict=True):
        places[shingle].add(value)
    assert all(len(values) == 1 for values in places.values())


@given(st.sets(st.integers(0, 40), max_size=30), st.sets(st.integers(0, 40), max_size=30))
def test_jaccard_is_intersection_over_union(left, right):
    import numpy as np

    arrays = [np.array(sorted(side), dtype=np.uint64) for side in (left, right)]
    assert jaccard(*arrays) == pytest.approx(similarity(left, right))
