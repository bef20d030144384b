"""Damaged, hostile and odd raw files: good records are kept, bad ones refused with their place, memory stays small."""

import gzip
import io
import json
import tarfile
import tracemalloc
import zipfile

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from raw_files import COMPRESS, html, jsonl, parquet, tar, warc, zipped

from nemotron4_data import Corpus, CorpusConfig, TokenizerConfig, run_prepare
from nemotron4_data.documents import read_lines
from nemotron4_data.sources import SUFFIXES, RawFile, Record, Refusal, read_raw, streams
from nemotron4_data.sources.records import shown

MANY = [f"text number {number} " + "filler " * (number % 50) for number in range(3000)]


def read(path, **changes):
    config = CorpusConfig(**{"name": "x", "files": ["x"], **changes})
    return list(read_raw(RawFile(path.name, str(path), path.stat().st_size), config))


def write(path, content):
    path.write_bytes(content)
    return path


def records(items):
    return [item for item in items if isinstance(item, Record)]


def refusals(items):
    return [(item.position, item.reason) for item in items if isinstance(item, Refusal)]


@pytest.mark.parametrize("compression", [suffix for suffix in COMPRESS if suffix])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_records_before_a_truncation_are_kept(tmp_path, compression, kept):
    content = COMPRESS[compression](jsonl(MANY))
    items = read(write(tmp_path / f"a.jsonl{compression}", content[: int(len(content) * kept)]))
    good = records(items)
    assert [item.value["text"] for item in good] == MANY[: len(good)]
    # A compressor of blocks gives nothing before its first block is whole.
    assert len(good) > 100 or compression in (".bz2", ".zst")
    *cut_line, (position, reason) = refusals(items)
    assert reason == "damaged file"
    assert position == f"after {cut_line[-1][0] if cut_line else good[-1].position if good else 'the beginning'}"
    assert [reason for _, reason in cut_line] in ([], ["broken JSON"])


def test_flipped_bytes_in_a_compressed_file_are_damage(tmp_path):
    content = bytearray(gzip.compress(jsonl(MANY)))
    content[len(content) // 2] ^= 0xFF
    items = read(write(tmp_path / "a.jsonl.gz", bytes(content)))
    assert refusals(items)[-1][1] == "damaged file"
    assert len(records(items)) > 100


def test_a_truncated_text_or_page_is_not_a_document(tmp_path):
    for name, content in (("a.txt.gz", b"words " * 9000), ("a.html.xz", html("words " * 9000))):
        packed = COMPRESS[name[-3:]](content)
        assert refusals(read(write(tmp_path / name, packed[:-10]))) == [("after the beginning", "damaged file")]


@pytest.mark.parametrize("where", [700, 1024, 1100, 512])
def test_a_truncated_tar(tmp_path, where):
    content = tar({"a.txt": b"first", "b.jsonl": jsonl(["x"] * 20)})
    items = read(write(tmp_path / "a.tar", content[:where]))
    assert [item.value["text"] for item in records(items)[:1]] == (["first"] if where > 512 else [])
    assert refusals(items)[-1][1] == "damaged file"


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path):
    content = bytearray(tar({"a.txt": b"first", "b.txt": b"second", "c.txt": b"third"}))
    content[1024 + 10] ^= 0xFF
    items = read(write(tmp_path / "a.tar", bytes(content)))
    assert [item.value["text"] for item in records(items)] == ["first"]
    assert refusals(items) == [("after a.txt", "damaged file")]


def test_a_damaged_member_does_not_end_its_archive(tmp_path):
    cut = gzip.compress(jsonl(MANY))[:-2000]
    members = {"a.jsonl.gz": cut, "b.txt": b"\xff\xfe", "c.exe": b"MZ", "d.tar": tar({"x.txt": b"x"}), "e.txt": b"end"}
    for path in (write(tmp_path / "a.tar", tar(members)), write(tmp_path / "a.zip", zipped(members))):
        items = read(path)
        assert records(items)[-1].value == {"text": "end", "path": "e.txt"}
        assert [reason for _, reason in refusals(items) if reason != "broken JSON"] == [
            "damaged file",
            "invalid UTF-8",
            "unsupported format in an archive",
            "unsupported format in an archive",
        ]


def test_zip_damage(tmp_path):
    content = zipped({"a.txt": b"first " * 1000, "b.txt": b"second"})
    flipped = bytearray(content)
    flipped[40] ^= 0xFF
    items = read(write(tmp_path / "a.zip", bytes(flipped)))
    assert [item.value["text"] for item in records(items)] == ["second"]
    assert refusals(items) == [("a.txt after the beginning", "damaged file")]
    assert refusals(read(write(tmp_path / "b.zip", content[:-30]))) == [("after the beginning", "damaged file")]
    encrypted = bytearray(content)
    encrypted[content.index(b"PK\x01\x02") + 8] |= 1
    assert refusals(read(write(tmp_path / "c.zip", bytes(encrypted)))) == [("a.txt", "encrypted in an archive")]


def test_paths_that_leave_their_archive_are_refused(tmp_path):
    names = ["../up.txt", "/etc/passwd.txt", "a/../../b.txt", "C:\\x.txt", "c:/x.txt", "fine.txt"]
    for path in (write(tmp_path / "a.tar", tar(dict.fromkeys(names, b"x"))), write(tmp_path / "a.zip", zipped({}))):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, "x")
        items = read(path)
        assert refusals(items) == [(name, "unsafe path in an archive") for name in names[:-1]]
        assert [item.position for item in records(items)] == ["fine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.zip"]


def test_links_and_devices_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (
            ("link.txt", tarfile.SYMTYPE),
            ("hard.txt", tarfile.LNKTYPE),
            ("pipe.txt", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    reason = "not a plain file in an archive"
    expected = [("link.txt", reason), ("hard.txt", reason), ("pipe.txt", reason)]
    assert refusals(read(tmp_path / "a.tar")) == expected


@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.txt.xz", "a.tar.gz", "a.zip", "a.html.zst", "a.warc.gz", "a.jsonl.gz.zip"]
)
def test_a_decompression_bomb_is_stopped(tmp_path, name, monkeypatch):
    monkeypatch.setattr(streams, "_FREE_EXPANSION_BYTES", 1 << 20)
    zeros = bytes(12 << 20)
    content = {
        "a.tar.gz": gzip.compress(tar({"ok.txt": b"ok", "zeros.jsonl": zeros, "after.txt": b"x"})),
        "a.warc.gz": gzip.compress(warc([zeros])),
        "a.zip": zipped({"ok.txt": b"ok", "zeros.jsonl": zeros, "after.txt": b"x"}),
        "a.jsonl.gz.zip": zipped({"ok.txt": b"ok", "zeros.jsonl.gz": gzip.compress(zeros), "after.txt": b"x"}),
    }.get(name) or COMPRESS["." + name.split(".")[2]](zeros)
    tracemalloc.start()
    items = read(write(tmp_path / name, content), max_document_bytes=100 << 20, max_expansion=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [reason for _, reason in refusals(items)].count("decompression bomb") == 1
    assert [item.position for item in records(items)] == (["ok.txt"] if "zip" in name or "tar" in name else [])
    assert peak < 16 << 20


@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".html"])
def test_an_overlong_document_is_skipped_in_little_memory(tmp_path, suffix):
    with (tmp_path / f"a{suffix}").open("wb") as file:
        file.truncate(40 << 20)
        file.seek(0, 2)
        file.write(b"\n" + jsonl(["after"]))
    tracemalloc.start()
    items = read(tmp_path / f"a{suffix}", max_document_bytes=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    long = "line 1" if suffix == ".jsonl" else ""
    assert refusals(items) == [(long, "longer than corpus.max_document_bytes")]
    assert [item.value["text"] for item in records(items)] == (["after"] if suffix == ".jsonl" else [])


def test_rejected_records_are_shown_shortened():
    assert shown(Refusal("", "", b"a" * 5000)) == "a" * 4000 + "… (5000 bytes)"
    assert shown(Refusal("", "", b"\xff\0")) == "\\xff\0"
    assert shown(Record("row 1", {"text": None, "n": {1}})) == '{"text": null, "n": "{1}"}'


def test_pages_without_end(tmp_path):
    deep = b"<div>" * 100_000 + b"deep"
    assert refusals(read(write(tmp_path / "a.html", deep))) == [("", "HTML nested too deeply")]
    assert len(records(read(write(tmp_path / "b.html", b"<p>flat" * 20_000)))) == 1
    assert refusals(read(write(tmp_path / "c.html", b"<script>1</script>"))) == [("", "HTML without text")]
    assert refusals(read(write(tmp_path / "d.html", b""))) == [("", "HTML without text")]


def test_a_truncated_web_record_is_not_a_page(tmp_path):
    content = warc([html("one"), html("two")])
    items = read(write(tmp_path / "a.warc", content[:-30]))
    assert [item.value["text"] for item in records(items)] == ["one"]
    assert refusals(items) == [("after record 1", "damaged file")]
    packed = gzip.compress(content)
    assert refusals(read(write(tmp_path / "a.warc.gz", packed[:-30])))[-1][1] == "damaged file"
    start = len(warc([html("one")]))
    for cut in range(start + 1, start + 200):  # inside the header
        assert len(refusals(read(write(tmp_path / "b.warc", content[:cut])))) == 1


def test_encodings(tmp_path):
    lines = ['{"text": "é"}'.encode("utf-8-sig"), '{"text": "é"}'.encode("latin-1"), '{"text": "é"}'.encode("utf-16")]
    items = read(write(tmp_path / "a.jsonl", b"\n".join(lines)))
    assert [item.value for item in records(items)] == [{"text": "é"}]
    assert refusals(items)[0] == ("line 2", "invalid UTF-8")
    assert {reason for _, reason in refusals(items)} <= {"invalid UTF-8", "broken JSON"}
    number = b'{"text": "x", "n": ' + b"9" * 5000 + b"}"
    assert refusals(read(write(tmp_path / "b.jsonl", number + b"\n" + b"[" * 100_000))) == [
        ("line 1", "broken JSON"),
        ("line 2", "JSON nested too deeply"),
    ]


def test_reading_continues_and_every_record_is_accounted_for(tmp_path, make_job, corpus):
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / "a.jsonl.gz", gzip.compress(jsonl(MANY))[:-200])
    write(raw / "b.parquet", b"PAR1 no more")
    write(raw / "c.tar", tar({"../x.txt": b"x", "y.txt": b"inside"}))
    write(raw / "d.txt", b"last")
    config = CorpusConfig(name="bad", files=[f"{raw}/*"], heldout_fraction=0.0)
    tokenizer = TokenizerConfig(model=str(corpus.tokenizer.path))
    run_prepare(make_job(None, tmp_path / "out", corpus=config, tokenizer=tokenizer))
    found = Corpus.open(tmp_path / "out", verify=True)
    rejected = [json.loads(line) for line in read_lines(tmp_path / "out/rejected/records.jsonl.zst")]
    facts = found.manifest.stages["documents"].facts["rejected"]
    assert sum(facts.values()) == len(rejected)
    assert facts["damaged file"] == 2
    assert facts["unsafe path in an archive"] == 1
    assert [(r["file"], r["position"]) for r in rejected[-2:]] == [
        (f"{raw}/b.parquet", "after the beginning"),
        (f"{raw}/c.tar", "../x.txt"),
    ]
    texts = [
        json.loads(line)["text"] for line in read_lines(tmp_path / "out/documents/english/documents.train.jsonl.zst")
    ]
    assert texts[-2:] == ["inside", "last"]
    assert texts[:-2] == MANY[: len(texts) - 2]
    assert len(texts) > 1000


VALID = {
    ".jsonl": jsonl(MANY[:20]),
    ".txt": b"some text",
    ".html": html("some text"),
    ".warc": warc([html("some"), html("text")]),
    ".parquet": parquet(MANY[:20], id=list(range(20))),
    ".zip": zipped({"a.jsonl": jsonl(MANY[:9]), "b.txt": b"text", "c.warc.gz": gzip.compress(warc([html("x")]))}),
    ".tar": tar({"a.jsonl": jsonl(MANY[:9]), "b.txt": b"text", "c.warc.gz": gzip.compress(warc([html("x")]))}),
}
NAMES = [suffix for suffix in SUFFIXES if "." + suffix.split(".")[1] in (*VALID, ".tgz")]


def valid_content(suffix):
    if suffix == ".tgz":
        return gzip.compress(VALID[".tar"])
    base = next(known for known in VALID if suffix.startswith(known))
    return COMPRESS[suffix.removeprefix(base) if suffix not in VALID else ""](VALID[base])


@settings(max_examples=120, deadline=None)
@given(suffix=st.sampled_from(NAMES), content=st.binary(max_size=2000))
def test_any_bytes_of_any_format_are_read_to_their_end(tmp_path_factory, suffix, content):
    path = write(tmp_path_factory.getbasetemp() / f"fuzz{suffix}", content)
    check(read(path, max_document_bytes=1000), suffix)


@settings(max_examples=150, deadline=None)
@given(
    suffix=st.sampled_from(NAMES),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=4),
    cut=st.floats(0, 1),
)
def test_any_damage_to_a_valid_file_loses_nothing_silently(tmp_path_factory, suffix, edits, cut):
    content = bytearray(valid_content(suffix))
    for where, new in edits:
        start = int(where * len(content))
        content[start : start + len(new)] = new
    del content[int(len(content) * (0.5 + cut / 2)) :]
    path = write(tmp_path_factory.getbasetemp() / f"fuzz{suffix}", bytes(content))
    items = read(path)
    check(items, suffix)
    sound = valid_content(suffix).rstrip(b"\0" if suffix == ".tar" else b"\r\n" if suffix == ".warc" else b"")
    if bytes(content) != sound[: len(content)] or bytes(content).rstrip() == warc([html("some")]).rstrip():
        return  # a web archive has no end mark: cut between records it is a sound one
    if suffix not in (".jsonl", ".txt", ".html") and len(content) < len(sound):
        assert refusals(items), "a cut file was taken for a whole one"


def check(items, suffix):
    for item in items:
        assert isinstance(item, Record | Refusal)
        json.dumps(shown(item)).encode()
        assert isinstance(item, Refusal) or suffix in VALID or item.value is not None or "jsonl" in suffix


MAGIC = (b"PK\3\4", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0")
"""Beginnings by which zip and compressed files are known, whatever their name."""


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=20))
def test_every_line_is_one_item(tmp_path_factory, lines):
    assume(not b"\n".join(lines).startswith(MAGIC))
    path = write(tmp_path_factory.getbasetemp() / "fuzz.jsonl", b"\n".join(lines))
    numbers = [f"line {number}" for number, line in enumerate(lines, start=1) if line.strip()]
    assert [item.position for item in read(path)] == numbers


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    chunk=st.integers(1, 50),
    limit=st.integers(1, 30),
)
def test_lines_do_not_depend_on_how_they_are_read(lines, chunk, limit):
    class Slow(io.RawIOBase):
        def __init__(self):
            self.content = io.BytesIO(b"\n".join(lines))

        def read(self, size=-1):
            return self.content.read(chunk)

    found = list(streams.read_lines_of(Slow(), limit))
    expected = [(n, len(line)) for n, line in enumerate(lines, start=1) if n < len(lines) or line]
    assert [(line.number, line.num_bytes) for line in found] == expected
    for line in found:
        if line.num_bytes <= limit:
            assert line.content == lines[line.number - 1].rstrip(b"\r" if line.number < len(lines) else b"")
        else:
            assert lines[line.number - 1].startswith(line.content[:limit])
