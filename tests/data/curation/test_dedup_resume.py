"""Deduplication killed at every point and rerun, split into other shards, and in scripts without spaces."""

import random

import pytest

from nemotron4_data.curation.dedup import deduplicate
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.documents import FrameWriter

BOTH = DedupConfig(exact=True, near=True)


class Serial:
    def map(self, function, tasks):
        return map(function, tasks)


class Dying:
    """Raises an error once it has done this many tasks."""

    def __init__(self, num_tasks):
        self.left = num_tasks

    def map(self, function, tasks):
        for task in tasks:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield function(task)


def write_shards(folder, texts, num_shards):
    folder.mkdir()
    paths = []
    for number in range(num_shards):
        paths.append(folder / f"{number}.jsonl.zst")
        writer = FrameWriter(paths[-1])
        for index in range(number * len(texts) // num_shards, (number + 1) * len(texts) // num_shards):
            writer.write({"id": str(index), "text": texts[index]})
        writer.close()
    return paths


def dropped_texts(paths, texts, drops):
    """(index, reason, kept id) of each dropped text, however the texts were split into shards."""
    starts = [number * len(texts) // len(paths) for number in range(len(paths))]
    return [(start + line, *drop) for start, found in zip(starts, drops, strict=True) for line, drop in found.items()]


@pytest.fixture(scope="module")
def texts():
    """Families of drifting versions, and exact copies."""
    rng = random.Random(11)
    texts = []
    for _ in range(30):
        words = rng.choices([f"word{number}" for number in range(3_000)], k=150)
        for _ in range(8):
            texts.append(" ".join(words))
            words[rng.randrange(150)] = f"edit{rng.randrange(1_000)}"
    texts += rng.choices(texts, k=20)
    rng.shuffle(texts)
    return texts


def test_killed_after_any_task_and_rerun_the_result_is_the_same(tmp_path, texts):
    paths = write_shards(tmp_path / "shards", texts, 3)
    expected = list(deduplicate(paths, BOTH, tmp_path / "whole", Serial()))
    assert sum(map(len, expected)) > 100
    num_tasks = 0
    while True:
        work = tmp_path / f"killed-{num_tasks}"
        try:
            deduplicate(paths, BOTH, work, Dying(num_tasks))
            break
        except KeyboardInterrupt:
            done = {path: path.stat().st_ino for path in work.glob("*.parquet")}
        assert list(deduplicate(paths, BOTH, work, Serial())) == expected
        assert {path: path.stat().st_ino for path in done} == done  # what was finished is not written again
        num_tasks += 1
    assert num_tasks >= 7  # three shards signed, three stored, pairs compared


def test_a_run_killed_repeatedly_still_ends(tmp_path, texts):
    paths = write_shards(tmp_path / "shards", texts, 3)
    expected = list(deduplicate(paths, BOTH, tmp_path / "whole", Serial()))
    for num_tasks in range(40):  # finished tasks cost a look, so each run needs to get further than the one before
        try:
            drops = deduplicate(paths, BOTH, tmp_path / "work", Dying(num_tasks))
        except KeyboardInterrupt:
            continue
        assert list(drops) == expected
        return
    pytest.fail("never ended")


def test_the_result_does_not_depend_on_the_split_into_shards(tmp_path, texts):
    results = []
    for num_shards in (1, 2, 7):
        paths = write_shards(tmp_path / f"shards{num_shards}", texts, num_shards)
        drops = deduplicate(paths, BOTH, tmp_path / f"work{num_shards}", Serial())
        results.append(dropped_texts(paths, texts, drops))
    assert results[0] == results[1] == results[2]


def test_a_shard_that_changed_is_signed_again(tmp_path):
    (path,) = write_shards(tmp_path / "shards", ["a b c d e f", "something else", "a b c d e f"], 1)
    assert list(deduplicate([path], BOTH, tmp_path / "work", Serial())[0]) == [2]
    path.unlink()
    writer = FrameWriter(path)
    for number, text in enumerate(["a b c d e f", "a b c d e f", "something else"]):
        writer.write({"id": str(number), "text": text})
    writer.close()
    assert list(deduplicate([path], BOTH, tmp_path / "work", Serial())[0]) == [1]


@pytest.mark.parametrize(("first", "last"), [(0x4E00, 0x9FA5), (0x3042, 0x3093), (0x0E01, 0x0E2E)])
def test_scripts_without_spaces(tmp_path, first, last):
    rng = random.Random(5)
    text = "".join(chr(rng.randint(first, last)) for _ in range(400))
    other = "".join(chr(rng.randint(first, last)) for _ in range(400))
    paths = write_shards(tmp_path / "shards", [text, other, text[:200] + "a" + text[201:]], 1)
    (drops,) = deduplicate(paths, BOTH, tmp_path / "work", Serial())
    assert {line: tuple(drop) for line, drop in drops.items()} == {2: ("near", "0")}


def test_long_and_monotonous_texts(tmp_path):
    rng = random.Random(6)
    words = rng.choices([f"word{number}" for number in range(50_000)], k=200_000)
    long = " ".join(words)
    texts = [long, "same " * 100_000, long.replace("word7 ", "other "), "Same, " * 7, "x" * 300_000, "", "one", "one!"]
    (drops,) = deduplicate(write_shards(tmp_path / "shards", texts, 1), BOTH, tmp_path / "work", Serial())
    assert {line: tuple(drop) for line, drop in drops.items()} == {2: ("near", "0"), 3: ("near", "1"), 7: ("near", "6")}
