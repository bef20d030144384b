"""Foreign records: other field names, other labels, files with misleading names."""

import bz2
import gzip
import json
import lzma
import sys

import pytest
import zstandard
from messages import message_of
from raw_files import html, jsonl, parquet, tar, warc, zipped

from nemotron4_data import ColumnsConfig, Corpus, CorpusConfig, TokenizerConfig, run_prepare
from nemotron4_data.documents import read_lines, to_document
from nemotron4_data.sources import RawFile, Record, Refusal, read_raw

TEXTS = ["one line", "two\nlines, één", "日本語"]


def config(**settings):
    return CorpusConfig(**{"name": "x", "files": ["x"], "heldout_fraction": 0.0, **settings})


def read(path, content, **settings):
    path.write_bytes(content)
    return list(read_raw(RawFile(path.name, str(path), len(content)), config(**settings)))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, None),
        ({"source": None}, {"source": "notes/mine", "id": "7", "split": "heldout", "language": "en"}),
        ({"source": "set"}, {"source": "web/pages", "id": "7", "split": "heldout", "language": "en"}),
        (
            {"source": "constant:code/c++", "id": "doi", "split": None, "language": "constant:nl", "date": "year"},
            {"source": "code/c++", "id": "10.1/x", "split": "train", "language": "nl", "date": "1999"},
        ),
        (
            {"text": "body", "source": "nowhere", "split": "constant:test", "language": None, "date": None},
            {"text": "the body", "source": "notes/mine", "id": "7", "split": "heldout"},
        ),
    ],
)
def test_fields_are_mapped_ignored_or_constant(tmp_path, columns, expected):
    record = {"text": "the text", "body": "the body", "id": 7, "doi": "10.1/x", "source": "common-crawl"}
    record |= {"set": "web/pages", "split": "validation", "language": "en", "year": 1999}
    chosen = config(source="notes/mine", columns=ColumnsConfig(**columns))
    of_parquet = {name: [value] for name, value in record.items() if name != "text"}
    for name, content in (
        ("a.jsonl", json.dumps(record).encode()),
        ("a.parquet", parquet(["the text"], **of_parquet)),
    ):
        (item,) = read(tmp_path / name, content, columns=chosen.columns)
        if expected is None:
            message = message_of(ValueError, to_document, item.value, chosen)
            assert message == "source is not domain/category of at most 100 characters each"
        else:
            assert to_document(item.value, chosen) == {"text": "the text", **expected}


def test_pages_and_texts_have_their_own_fields_whatever_the_columns_are(tmp_path):
    chosen = config(columns=ColumnsConfig(text="path", id="doi", language="constant:nl", source=None))
    (item,) = read(tmp_path / "a.txt", b"words", columns=chosen.columns)
    assert {key: to_document(item.value, chosen)[key] for key in ("text", "language")} == {
        "text": "words",
        "language": "nl",
    }
    (item,) = read(tmp_path / "a.warc", warc([html("words")]), columns=chosen.columns)
    document = to_document(item.value, chosen)
    assert (document["text"], document["id"], document["language"]) == ("words", "<urn:uuid:0>", "nl")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "train") for name in ("train", "Train", "training", "", None)),
        *((name, "heldout") for name in ("heldout", "validation", "VALID", "val", "dev", "test", "eval")),
        *((name, None) for name in ("third", 3, ["train"])),
    ],
)
def test_names_of_splits(name, expected):
    if expected is None:
        message = message_of(ValueError, to_document, {"text": "x", "split": name}, config())
        assert message == "split is neither train nor heldout"
    else:
        assert to_document({"text": "x", "split": name}, config())["split"] == expected


@pytest.mark.parametrize(
    ("field", "length", "reason"),
    [
        ("source", 100, "source is not domain/category of at most 100 characters each"),
        ("id", 1000, "id is longer than 1000 characters"),
        ("language", 1000, "language is longer than 1000 characters"),
        ("license", 1000, "license is longer than 1000 characters"),
    ],
)
def test_a_text_that_becomes_a_name_or_a_key_is_short(field, length, reason):
    prefix = "english/" if field == "source" else ""
    kept = prefix + "x" * length
    assert to_document({"text": "x", field: kept}, config())[field] == kept
    assert message_of(ValueError, to_document, {"text": "x", field: kept + "x"}, config()) == reason


def test_a_long_source_is_rejected_and_the_run_continues(tmp_path, make_job, corpus):
    good = [{"text": "first"}, {"text": "longest", "source": f"{'a' * 100}/{'b' * 100}"}, {"text": "last"}]
    bad = {"text": "bad", "source": f"english/{'x' * 250}"}
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, [good[0], bad, *good[1:]])))
    job = make_job(
        None,
        tmp_path / "out",
        corpus=CorpusConfig(name="long", files=[f"{tmp_path}/raw.jsonl"], heldout_fraction=0.0),
        tokenizer=TokenizerConfig(model=str(corpus.tokenizer.path)),
    )
    run_prepare(job)
    assert Corpus.open(tmp_path / "out", verify=True).source_names == [good[1]["source"], "english/documents"]
    (rejected,) = [json.loads(line) for line in read_lines(tmp_path / "out/rejected/records.jsonl.zst")]
    assert (rejected["position"], rejected["reason"]) == (
        "line 2",
        "source is not domain/category of at most 100 characters each",
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"id": ""}, "corpus.columns.id (''): must name a field, or be null or constant:VALUE"),
        (
            {"source": "constant:"},
            "corpus.columns.source ('constant:'): must name a field, or be null or constant:VALUE",
        ),
        ({"text": "constant:x"}, "corpus.columns.text (constant:x): must name the field that holds the text"),
    ],
)
def test_wrong_columns_are_refused(settings, expected):
    assert message_of(ValueError, lambda: ColumnsConfig(**settings)) == expected


def test_the_old_key_of_the_text_column_names_the_new_one():
    assert message_of(ValueError, lambda: config(text_column="body")) == (
        "corpus.text_column (body): is now called corpus.columns.text; write corpus.columns.text=body"
    )


PLAIN = {
    ".jsonl": (jsonl(TEXTS), TEXTS),
    ".txt": (b"A text.", ["A text."]),
    ".html": (html("A page."), ["A page."]),
    ".warc": (warc([html("A page.")]), ["A page."]),
    ".tar": (tar({"a.jsonl": jsonl(TEXTS)}), TEXTS),
}
PACK = {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.compress, "bzip2": bz2.compress}


@pytest.mark.parametrize("named", ["", ".gz", ".zst"])
@pytest.mark.parametrize("packed", ["", *PACK])
@pytest.mark.parametrize("suffix", PLAIN)
def test_compression_is_known_by_content(tmp_path, suffix, packed, named):
    content, expected = PLAIN[suffix]
    items = read(tmp_path / f"a{suffix}{named}", PACK.get(packed, bytes)(content))
    assert [item.value["text"] for item in items] == expected


def test_parquet_and_zip_are_known_by_content(tmp_path):
    for content in (parquet(TEXTS), zipped({"a.jsonl": jsonl(TEXTS)})):
        assert [item.value["text"] for item in read(tmp_path / "a.jsonl", content)] == TEXTS
    for text in ("PAR1 is how Parquet begins", "BZh9 is how bzip2 begins", "PAR1", "P"):
        (item,) = read(tmp_path / "a.txt", text.encode())
        assert item.value["text"] == text


def test_a_window_of_2_gib_is_read(tmp_path):
    lines = jsonl(TEXTS)
    block = (len(lines) << 3 | 1).to_bytes(3, "little") + lines  # the last, not compressed
    content = bytes([0x28, 0xB5, 0x2F, 0xFD, 0, (31 - 10) << 3]) + block
    assert zstandard.get_frame_parameters(content).window_size == 1 << 31
    assert [item.value["text"] for item in read(tmp_path / "a.jsonl.zst", content)] == TEXTS


def nested(depth):
    return b'{"text": "x", "n": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def at_depth(frames, function, *arguments):
    return at_depth(frames - 1, function, *arguments) if frames else function(*arguments)


@pytest.mark.parametrize("frames", [0, 600])
def test_the_depth_limit_of_json_does_not_depend_on_the_stack(tmp_path, frames):
    lines = [nested(depth) for depth in (2, 199, 200, 201, 500, 900, 2000, 100_000)]
    lines += [b'{"text": "' + b"[" * 5000 + b'"}', b"[" * 300, b"[[]" * 150, b'{"a": "' + rb"\"[" * 300]
    content = b"\n".join(lines)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        items = at_depth(frames, read, tmp_path / "a.jsonl", content)
    finally:
        sys.setrecursionlimit(limit)
    kept = [item.position for item in items if isinstance(item, Record)]
    assert kept == ["line 1", "line 2", "line 3", "line 9"]
    deep, broken = "JSON nested too deeply", "broken JSON"
    refused = [(item.position, item.reason) for item in items if isinstance(item, Refusal)]
    assert refused == [
        *((f"line {number}", deep) for number in (4, 5, 6, 7, 8, 10)),
        ("line 11", broken),
        ("line 12", broken),
    ]


@pytest.mark.parametrize(
    ("content", "settings", "reason"),
    [
        (
            b'{"body": "one"}\n{"body": "two"}\n{"text": ""}',
            {},
            '2 of 3 record(s): no text (first: {place} line 1: {{"body": "one"}}); set corpus.columns.text (text) to '
            "the field that holds the text",
        ),
        (
            b'{"text": "one", "source": "OSCAR-2109"}',
            {},
            "1 of 1 record(s): source is not domain/category of at most 100 characters each (first: {place} line 1: "
            '{{"text": "one", "source": "OSCAR-2109"}}); set corpus.columns.source=null to file all under '
            "english/documents, or to a field that holds it",
        ),
        (
            b'{"text": "one", "split": "test"}\n{"text": "two", "split": "dev"}\nnonsense',
            {},
            "2 of 3 record(s): held out; lower corpus.heldout_fraction (0.0) or correct corpus.columns.split",
        ),
        (
            b'{"text": "long"}',
            {"max_document_bytes": 3},
            '1 of 1 record(s): longer than corpus.max_document_bytes (first: {place} line 1: {{"text": "long"}}); '
            "raise corpus.max_document_bytes (3)",
        ),
    ],
)
def test_if_nothing_is_left_the_most_common_reason_is_reported(tmp_path, make_job, content, settings, reason):
    path = tmp_path / "raw.jsonl"
    path.write_bytes(content)
    chosen = CorpusConfig(name="none", files=[str(path)], heldout_fraction=0.0, **settings)
    message = message_of(ValueError, run_prepare, make_job(None, tmp_path / "out", corpus=chosen))
    assert message == f"corpus.files: 1 file(s) hold no document for training; {reason.format(place=path)}"


def test_bytes_not_read_are_reported(tmp_path, make_job, corpus, capsys):
    texts = [f"text number {number} " + "filler " * (number % 50) for number in range(3000)]
    content = bytearray(gzip.compress(jsonl(texts)))
    where = len(content) // 5
    content[where : where + 50] = b"\xff" * 50
    (tmp_path / "raw.jsonl.gz").write_bytes(content)
    job = make_job(
        None,
        tmp_path / "out",
        corpus=CorpusConfig(name="bad", files=[f"{tmp_path}/raw.jsonl.gz"], heldout_fraction=0.0),
        tokenizer=TokenizerConfig(model=str(corpus.tokenizer.path)),
    )
    run_prepare(job)
    *_, rejected = [json.loads(line) for line in read_lines(tmp_path / "out/rejected/records.jsonl.zst")]
    unread, size = rejected["bytes_not_read"], rejected["bytes"]
    assert rejected["reason"] == "damaged file"
    assert size == len(content)
    assert 0.7 < unread / size < 0.85
    facts = Corpus.open(tmp_path / "out").manifest.stages["documents"].facts
    assert facts["unread"] == {"damaged file": [unread, size]}
    said = f"{unread:,} of {size:,} bytes, {unread / size:.0%}, not read"
    console = " ".join(capsys.readouterr().err.split())
    assert f"1 damaged file ({said})" in console
    assert f"<td>damaged file</td><td>1</td><td>{said}</td>" in (tmp_path / "out/report.html").read_text()
