"""Documents by columns: the same values as from JSON, lines that keep their bytes, words of long texts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data import filtering
from nemotron4_data.curation import CurationConfig
from nemotron4_data.curation import words as words_module
from nemotron4_data.curation.dedup import Drop
from nemotron4_data.document_columns import read_chunks, read_columns, text_bytes, text_ends, text_sizes
from nemotron4_data.documents import FrameWriter, json_line, read_lines
from nemotron4_data.filtering import FilterReport, FilterTask
from nemotron4_data.zstd import frame_sizes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ['", "source": "a/b", "split": "train"}', "2024-01-01T00:00:00", '\u2028\r\n\t\\"', "12", "null", "日本語 é\u0301"]
)
DOCUMENT = st.fixed_dictionaries(
    {"id": TEXT, "text": TEXT},
    optional={"license": st.sampled_from(["MIT", "Apache-2.0"]), "date": TEXT, "path": TEXT, "origin": TEXT},
)
PLACE = st.fixed_dictionaries(
    {"source": st.sampled_from(["a/b", "c.+#/d-e"]), "split": st.sampled_from(["train", "heldout"])}
)
FOUND = st.fixed_dictionaries({}, optional={"language": st.sampled_from(["de", "und"])})


@settings(max_examples=100)
@given(
    st.lists(DOCUMENT, min_size=1, max_size=5), st.dictionaries(st.sampled_from("abc"), TEXT | st.floats() | st.none())
)
def test_columns_and_lines_equal_those_of_json(documents, other):
    lines = [json_line({**document, **other}) for document in documents]
    assert lines == [json.dumps({**document, **other}, ensure_ascii=False).encode() + b"\n" for document in documents]
    names = ("id", "text", "license", "date", "absent")
    columns = read_columns(b"".join(lines), *names)
    assert [column.to_pylist() for column in columns] == [[d.get(name) for d in documents] for name in names]
    encoded = [document["text"].encode() for document in documents]
    assert text_sizes(columns[1]).tolist() == list(map(len, encoded))
    assert text_bytes(columns[1])[: text_ends(columns[1])[-1]].tobytes() == b"".join(encoded)


@pytest.mark.parametrize("num_bytes", [1, 7, 64, 1 << 20])
def test_chunks_are_whole_lines(tmp_path, num_bytes):
    content = b"a\nbb\n\n" + b"c" * 100 + b"\nlast"
    (tmp_path / "a.jsonl").write_bytes(content)
    chunks = list(read_chunks(tmp_path / "a.jsonl", num_bytes))
    assert b"".join(chunks) == content
    assert all(chunk.endswith(b"\n") for chunk in chunks[:-1])


@settings(max_examples=100)
@given(
    documents=st.lists(st.tuples(DOCUMENT, PLACE, FOUND), min_size=1, max_size=6), dropped=st.sets(st.integers(0, 5))
)
def test_a_kept_line_equals_a_rewritten_document(tmp_path_factory, documents, dropped):
    shard = tmp_path_factory.mktemp("shard") / "documents.jsonl.zst"
    writer = FrameWriter(shard)
    for document, place, found in documents:
        writer.write({**document, "source": place["source"], "split": place["split"], **found})
    writer.close()
    drops = {number: Drop("exact", "kept") for number in dropped}
    task = FilterTask(shard, drops, CurationConfig(), shard.parent / "out")
    found = []
    for kept in (
        lambda report, keep: filtering._as_they_are(task, report, keep),
        lambda report, keep: filtering._judged(task, [], report, keep),
    ):
        report, thrown = FilterReport(), []
        found.append((list(kept(report, thrown.append)), thrown, report.dedup))
    assert found[0] == found[1]
    assert len(found[0][0]) == sum(number not in dropped for number in range(len(documents)))


def test_frames_are_found_without_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr("nemotron4_data.documents._FRAME_BYTES", 1_000)
    writer = FrameWriter(tmp_path / "a.zst")
    for number in range(100):
        writer.write({"text": "x" * number})
    writer.close()
    sizes = list(frame_sizes(tmp_path / "a.zst"))
    assert len(sizes) > 4
    assert sum(size for size, _ in sizes) == (tmp_path / "a.zst").stat().st_size
    assert sum(unpacked for _, unpacked in sizes) == sum(len(line) + 1 for line in read_lines(tmp_path / "a.zst"))
    (tmp_path / "b.zst").touch()
    assert list(frame_sizes(tmp_path / "b.zst")) == []


@settings(max_examples=100)
@given(st.text("ab Σσ\u3000\n.日", max_size=80))
def test_long_texts_have_the_same_words_in_stretches(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "_STRETCH_CHARACTERS", 5)
        stretches = list(words_module.stretches(text))
        assert words_module.word_lengths(text) == list(map(len, text.split()))
    assert "".join(stretches) == text
    assert [word for part in stretches for word in part.split()] == text.split()
    normalised = [word for part in stretches for word in words_module.normalised_words(part)]
    assert normalised == words_module.normalised_words(text)
