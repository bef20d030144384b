"""One odd item loses only that item: the rest of its file is read, and what was not read is counted."""

import datetime
import gzip
import io
import re
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import COMPRESS, html, jsonl, tar, warc, zipped

from nemotron4_data import CorpusConfig
from nemotron4_data.sources import RawFile, Record, Refusal, read_raw
from nemotron4_data.sources.http_response import parse_response

MANY = [f"text number {number} " + "filler " * (number % 50) for number in range(3000)]


def read(path, content, **changes):
    path.write_bytes(content)
    config = CorpusConfig(**{"name": "x", "files": ["x"], **changes})
    return list(read_raw(RawFile(path.name, str(path), len(content)), config))


def texts(items):
    return [item.value["text"] for item in items if isinstance(item, Record)]


def refusals(items):
    return [(item.position, item.reason) for item in items if isinstance(item, Refusal)]


def chunked(body):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def bare_deflate(body):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


def brotli(body):
    out = io.BytesIO()
    with BrotliWriter(out) as writer:
        writer.write(body)
    return out.getvalue()


CODINGS = ["gzip", "deflate", "br", "zstd", "chunked, gzip", "none"]
PAGE = html("The page in the middle.")
BODIES = {
    "chunked": (["Transfer-Encoding: chunked"], chunked(PAGE)),
    "chunked, but joined by the crawler": (["Transfer-Encoding: chunked"], PAGE),
    "none": (["Content-Encoding: none"], PAGE),
    "utf-8": (["Content-Encoding: utf-8"], PAGE),
    "br, but decoded": (["Content-Encoding: br"], PAGE),
    "gzip, but decoded": (["Content-Encoding: gzip"], PAGE),
    "br": (["Content-Encoding: br"], brotli(PAGE)),
    "gzip": (["Content-Encoding: GZIP"], gzip.compress(PAGE)),
    "gzip in two members": (["Content-Encoding: x-gzip"], gzip.compress(PAGE[:50]) + gzip.compress(PAGE[50:])),
    "gzip twice": (["Content-Encoding: gzip", "Content-Encoding: gzip"], gzip.compress(gzip.compress(PAGE))),
    "deflate": (["Content-Encoding: deflate"], zlib.compress(PAGE)),
    "deflate, bare": (["Content-Encoding: deflate"], bare_deflate(PAGE)),
    "zstd": (["Content-Encoding: zstd"], zstandard.compress(PAGE)),
    "gzip in chunks": (["Content-Encoding: gzip", "Transfer-Encoding: chunked"], chunked(gzip.compress(PAGE))),
}
CUT_BODIES = {
    "chunk": (["Transfer-Encoding: chunked"], chunked(PAGE)[:-30]),
    "last chunk": (["Transfer-Encoding: chunked"], chunked(PAGE)[:-5]),
    "gzip": (["Content-Encoding: gzip"], gzip.compress(PAGE * 9)[:-10]),
    "zlib": (["Content-Encoding: deflate"], zlib.compress(PAGE)[:-9]),
    "zstd": (["Content-Encoding: zstd"], zstandard.compress(PAGE)[:-9]),
    "not brotli": (["Content-Encoding: br"], b"\0\1\2\3" + PAGE),
    "not gzip": (["Content-Encoding: gzip"], b"\x1f\x8b" + PAGE),
}


def between(body, headers=()):
    """An archive with one response between two valid ones."""
    middle = warc([body], "\r\n".join(["Content-Type: text/html; charset=utf-8", *headers]))
    return warc([html("first")]) + middle + warc([html("last")])


@pytest.mark.parametrize("name", BODIES)
def test_a_page_is_decoded_as_its_headers_declare_or_used_unchanged(tmp_path, name):
    headers, body = BODIES[name]
    items = read(tmp_path / "a.warc", between(body, headers))
    assert texts(items) == ["first", "The page in the middle.", "last"]
    assert refusals(items) == []


@pytest.mark.parametrize("name", CUT_BODIES)
def test_a_page_truncated_in_its_coding_is_refused_and_reading_continues(tmp_path, name):
    headers, body = CUT_BODIES[name]
    items = read(tmp_path / "a.warc", between(body, headers))
    assert texts(items) == ["first", "last"]
    assert refusals(items) == [("record 2", "HTTP body is cut or not in its declared coding")]


def test_a_page_that_unpacks_to_too_much_is_refused_and_reading_continues(tmp_path):
    for headers, body in (
        (["Content-Encoding: gzip"], gzip.compress),
        (["Content-Encoding: zstd"], zstandard.compress),
    ):
        items = read(tmp_path / "a.warc", between(body(bytes(1 << 20)), headers), max_document_bytes=10_000)
        assert texts(items) == ["first", "last"]
        assert refusals(items) == [("record 2", "longer than corpus.max_document_bytes")]


@settings(max_examples=100)
@given(
    head=st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 404\n", b""]),
    coding=st.sampled_from(["Transfer-Encoding: chunked", *(f"Content-Encoding: {name}" for name in CODINGS)]),
    body=st.binary(max_size=200),
)
def test_any_message_is_a_response_or_a_reason(head, coding, body):
    reason = ""
    try:
        response = parse_response(head + coding.encode() + b"\r\n\r\n" + body, 100)
    except ValueError as error:
        reason = str(error)
    else:
        assert len(response.body) <= max(101, len(body))
    assert reason in ("", "broken HTTP message", "HTTP body is cut or not in its declared coding")


def length_plus(number, archive):
    return re.sub(rb"(?<=Content-Length: )\d+", lambda match: b"%d" % (int(match[0]) + number), archive)


STRAYED = "damaged web record"


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (b"stray\r\nlines\r\n\r\n", [("after record 1", STRAYED)]),
        (warc([PAGE]).replace(b"Content-Length", b"X-Length"), [("record 2", STRAYED), ("after record 2", STRAYED)]),
        (length_plus(-30, warc([PAGE])), [("record 2", STRAYED), ("after record 2", STRAYED)]),
        (length_plus(30, warc([PAGE])), [("record 2", STRAYED)]),
        (length_plus(9999, warc([PAGE])), [("record 2", STRAYED)]),
        (length_plus(10**30, warc([PAGE])), [("record 2", STRAYED), ("after record 2", STRAYED)]),
        (warc([PAGE]).replace(b"HTTP/1.1 200 OK", b"SMTP/1.1 200 OK"), [("record 2", "broken HTTP message")]),
    ],
)
def test_a_malformed_web_record_is_refused_and_reading_continues(tmp_path, middle, expected):
    items = read(tmp_path / "a.warc", warc([html("first")]) + middle + warc([html("last")]))
    assert texts(items) == ["first", "last"]
    assert refusals(items) == expected


def parquet_file(table, **options):
    out = io.BytesIO()
    pq.write_table(table, out, use_dictionary=False, compression="none", **options)
    return out.getvalue()


def test_a_time_beyond_the_year_9999_is_read(tmp_path):
    seconds = [0] * 200
    seconds[3] = 253_402_300_800
    table = pa.table({"text": MANY[:200], "date": pa.array(seconds, pa.timestamp("s")), "id": pa.array(range(200))})
    items = read(tmp_path / "a.parquet", parquet_file(table))
    assert texts(items) == MANY[:200]
    assert [item.value["date"] for item in items[2:5]] == [
        "1970-01-01T00:00:00",
        "10000-01-01T00:00:00",
        "1970-01-01T00:00:00",
    ]


@pytest.mark.parametrize(
    ("number", "kind", "expected"),
    [
        (1577836800123456789, pa.timestamp("ns"), "2020-01-01T00:00:00.123456789"),
        (1577836800120000000, pa.timestamp("ns"), "2020-01-01T00:00:00.12"),
        (1577836800, pa.timestamp("s", "Europe/Amsterdam"), "2020-01-01T00:00:00Z"),
        (1577836800, pa.timestamp("s", "No/Such"), "2020-01-01T00:00:00Z"),
        (10**7, pa.date32(), "29349-01-26"),
        (10, pa.time64("ns"), "00:00:00.000000010"),
        (10**18, pa.duration("s"), "1000000000000000000"),
        (["MIT", None], pa.list_(pa.string()), ["MIT", None]),
        ({"at": 1577836800123456789}, pa.struct([("at", pa.timestamp("ns"))]), {"at": "2020-01-01T00:00:00.123456789"}),
    ],
)
def test_values_of_parquet_do_not_depend_on_other_packages(tmp_path, number, kind, expected):
    table = pa.table({"text": ["a"], "date": pa.array([number], kind)})
    (item,) = read(tmp_path / "a.parquet", parquet_file(table))
    assert item.value == {"text": "a", "date": expected}
    assert not isinstance(expected, str) or type(item.value["date"]) is str  # pandas' own would be equal, too


def test_a_damaged_page_loses_only_its_row_group(tmp_path):
    content = bytearray(parquet_file(pa.table({"text": MANY[:200]}), row_group_size=50))
    start = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 9] = b"\xff" * 9
    items = read(tmp_path / "a.parquet", bytes(content))
    assert texts(items) == MANY[:50] + MANY[100:200]
    (refusal,) = [item for item in items if isinstance(item, Refusal)]
    assert (refusal.position, refusal.reason) == ("after row 50", "damaged file")
    assert refusal.raw.endswith(b" (50 of 50 rows of row group 1 not read)")
    assert items[-1].position == "row 200"


def test_columns_that_are_not_read_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr("nemotron4_data.sources.streams._FREE_EXPANSION_BYTES", 1000)
    table = pa.table({"text": ["a", "b"], "blob": ["x" * 1_000_000] * 2, "date": [datetime.date(2020, 1, 2)] * 2})
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", use_dictionary=False)
    items = read(tmp_path / "a.parquet", out.getvalue(), max_expansion=1)
    assert [item.value for item in items] == [{"text": text, "date": "2020-01-02"} for text in "ab"]
    table = pa.table({"text": ["x" * 1_000_000] * 2})
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", use_dictionary=False)
    assert refusals(read(tmp_path / "a.parquet", out.getvalue(), max_expansion=1)) == [
        ("after the beginning", "decompression bomb")
    ]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz", ".bz2"])
def test_the_bytes_not_read_of_a_damaged_file_are_counted(tmp_path, suffix):
    parts = [COMPRESS[suffix](jsonl(MANY[start : start + 100])) for start in range(0, 3000, 100)]
    content = bytearray(b"".join(parts))
    where = sum(map(len, parts[:6])) + 3
    content[where : where + 40] = b"\xff" * 40
    items = read(tmp_path / f"a.jsonl{suffix}", bytes(content))
    unread, size = items[-1].unread
    assert items[-1].reason == "damaged file"
    assert size == len(content)
    assert abs(unread - (size - where)) <= max(256, size / 100) + 40
    assert items[-1].raw.endswith(f" ({unread} of {size} bytes not read)".encode())
    assert 500 <= len(texts(items)) <= 600


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.xz", "a.tar.bz2", "a.warc.zst", "a.tgz"])
def test_an_empty_compressed_file_is_damaged(tmp_path, name):
    assert refusals(read(tmp_path / name, b"")) == [("after the beginning", "damaged file")]


def test_a_damaged_text_gives_nothing_and_counts_whole(tmp_path):
    content = gzip.compress(" ".join(MANY).encode())
    damaged = content[:-2000] + b"\xff" * 1000 + content[-1000:]
    (refusal,) = read(tmp_path / "a.txt.gz", damaged)
    assert refusal.unread == (len(damaged), len(damaged))


def test_the_bytes_not_read_of_a_member_are_counted(tmp_path):
    packed = gzip.compress(jsonl(MANY))
    damaged = packed[: len(packed) // 2] + b"\xff" * 50 + packed[len(packed) // 2 + 50 :]
    members = {"a.jsonl.gz": damaged, "b.txt": b"end"}
    for name, content in (("a.tar", tar(members)), ("a.zip", zipped(members))):
        items = read(tmp_path / name, content)
        assert texts(items)[-1] == "end"
        (refusal,) = [item for item in items if getattr(item, "reason", "") == "damaged file"]
        unread, size = refusal.unread
        assert size == len(damaged)
        assert 0.3 < unread / size < 0.55


def test_a_truncated_web_record_counts_as_not_read(tmp_path):
    content = warc([html("first"), html("filler " * 9000)])[:-20000]
    items = read(tmp_path / "a.warc", content)
    assert texts(items) == ["first"]
    unread, size = items[-1].unread
    assert size == len(content)
    assert 0.98 < unread / size < 1
