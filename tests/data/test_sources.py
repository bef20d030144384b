"""Reading every format from every place: what comes out, in which order, and from where."""

import errno
import functools
import http.server
import json
import sys
import threading
import types

import fsspec
import pytest
from messages import message_of
from raw_files import COMPRESS, html, jsonl, parquet, tar, warc, zipped

from nemotron4_data import ColumnsConfig, CorpusConfig
from nemotron4_data.documents import to_document
from nemotron4_data.sources import SUFFIXES, RawFile, Refusal, find_files, read_raw

TEXTS = ["one line", "two\nlines, één", "日本語"]


def config(**settings):
    return CorpusConfig(**{"name": "x", "files": ["x"], **settings})


def read(path, **settings):
    (file,) = find_files([str(path)], SUFFIXES)
    return list(read_raw(file, config(**settings)))


def texts(items):
    items = list(items)
    assert not [item for item in items if isinstance(item, Refusal)]
    return [item.value["text"] for item in items]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".txt", ".html", ".htm", ".warc", ".wet", ".tar"])
def test_every_format_in_every_compression(tmp_path, suffix, compression):
    content = {
        ".jsonl": jsonl(TEXTS),
        ".ndjson": jsonl(TEXTS),
        ".txt": TEXTS[1].encode(),
        ".html": html("A paragraph."),
        ".htm": html("A paragraph."),
        ".warc": warc([html("A paragraph.")]),
        ".wet": warc([b"A paragraph."], "Content-Type: text/plain; charset=utf-8"),
        ".tar": tar({"a.jsonl": jsonl(TEXTS[:1]), "b.jsonl.gz": COMPRESS[".gz"](jsonl(TEXTS[1:]))}),
    }[suffix]
    path = tmp_path / f"a{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](content))
    expected = {".jsonl": TEXTS, ".ndjson": TEXTS, ".tar": TEXTS, ".txt": [TEXTS[1]]}.get(suffix, ["A paragraph."])
    assert texts(read(path)) == expected


def test_positions_tell_where_a_record_is(tmp_path):
    (tmp_path / "a.tar").write_bytes(
        tar({"d/a.jsonl": b"\n" + jsonl(["x"]), "b.txt": b"y", "c.warc": warc([html("z")])})
    )
    (tmp_path / "a.tgz").write_bytes(COMPRESS[".gz"]((tmp_path / "a.tar").read_bytes()))
    (tmp_path / "a.parquet").write_bytes(parquet(["x", "y"]))
    expected = ["d/a.jsonl line 2", "b.txt", "c.warc record 1"]
    assert [item.position for item in read(tmp_path / "a.tar")] == expected
    assert [item.position for item in read(tmp_path / "a.tgz")] == expected
    assert [item.position for item in read(tmp_path / "a.parquet")] == ["row 1", "row 2"]


def test_zip_members_come_in_order(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"b.jsonl.xz": COMPRESS[".xz"](jsonl(["x", "y"])), "a.txt": b"z"}))
    assert [(i.position, i.value["text"]) for i in read(tmp_path / "a.zip")] == [
        ("b.jsonl.xz line 1", "x"),
        ("b.jsonl.xz line 2", "y"),
        ("a.txt", "z"),
    ]


def test_columns_of_parquet_become_fields(tmp_path):
    content = parquet(
        [*TEXTS, None], content=["a", "b", "c", "d"], id=[1, 2, 3, 4], language=["en", "nl", None, "ja"], unused=[0] * 4
    )
    (tmp_path / "a.parquet").write_bytes(content)
    assert [item.value for item in read(tmp_path / "a.parquet", columns=ColumnsConfig(text="content"))][:2] == [
        {"content": "a", "id": 1, "language": "en"},
        {"content": "b", "id": 2, "language": "nl"},
    ]
    items = read(tmp_path / "a.parquet")
    documents = [to_document(item.value, config(heldout_fraction=0)) for item in items[:3]]
    assert documents[1] == {
        "id": "2",
        "text": TEXTS[1],
        "language": "nl",
        "source": "english/documents",
        "split": "train",
    }
    assert "language" not in documents[2]
    assert message_of(ValueError, to_document, items[3].value, config()) == "no text"


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(TEXTS))
    (refusal,) = read(tmp_path / "a.parquet", columns=ColumnsConfig(text="body"))
    detail = b"Damaged: no column body (corpus.columns.text); it has text (487 of 487 bytes not read)"
    assert (refusal.reason, refusal.raw) == ("damaged file", detail)


def test_web_pages_carry_their_origin_and_lose_their_navigation(tmp_path):
    latin = "<p>naïve café</p>".encode("latin-1")
    (tmp_path / "a.warc").write_bytes(
        warc([html("See main.")])
        + warc([latin], "Content-Type: text/html; charset=iso-8859-1")
        + warc([b"<meta charset=iso-8859-1>" + latin], "Content-Type: text/html")
        + warc([COMPRESS[".gz"](html("Packed."))], "Content-Type: text/html\r\nContent-Encoding: gzip")
    )
    items = read(tmp_path / "a.warc")
    assert texts(items) == ["See main.", "naïve café", "naïve café", "Packed."]
    assert {key: items[0].value[key] for key in ("id", "origin", "date")} == {
        "id": "<urn:uuid:0>",
        "origin": "http://example.org/0",
        "date": "2020-01-01T00:00:00Z",
    }


def test_web_records_that_are_not_pages(tmp_path):
    missing = warc([b"gone"]).replace(b"200 OK", b"404 NO")
    image = warc([b"\x89PNG"], "Content-Type: image/png")
    request = warc([b""], kind="request")
    (tmp_path / "a.warc").write_bytes(missing + request + image + warc([b"<script>x()</script>"]) + warc([html("x")]))
    items = read(tmp_path / "a.warc")
    reasons = ["HTTP status is not 2xx", "neither HTML nor plain text", "HTML without text"]
    assert [item.reason for item in items[:3]] == reasons
    assert texts(items[3:]) == ["x"]


def test_files_are_found_sorted_and_once(tmp_path):
    for name in ("b.jsonl", "a.txt", "c.TXT"):
        (tmp_path / name).write_text("x")
    files = find_files([f"{tmp_path}/*.jsonl", f"{tmp_path}/*"], SUFFIXES)
    assert [file.path.rsplit("/", 1)[1] for file in files] == ["b.jsonl", "a.txt", "c.TXT"]
    (tmp_path / "d.pdf").write_text("x")
    message = message_of(ValueError, find_files, [f"{tmp_path}/*"], SUFFIXES)
    assert message.startswith(f"corpus.files ({tmp_path}/d.pdf): must end in one of .jsonl, .jsonl.gz, ")


def test_a_renamed_directory_is_the_same_input_and_a_changed_file_is_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.txt").write_text("x")
    (before,) = find_files([f"{tmp_path}/a/*"], SUFFIXES)
    identity = before.identity
    (tmp_path / "a").rename(tmp_path / "b")
    (after,) = find_files([f"{tmp_path}/b/*"], SUFFIXES)
    assert after.identity == identity
    (tmp_path / "b/x.txt").write_text("y")
    assert after.identity != identity


def test_object_stores_are_read_through_fsspec():
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/b.jsonl.gz", COMPRESS[".gz"](jsonl(TEXTS)))
    system.pipe("/bucket/a.parquet", parquet(TEXTS))
    system.pipe("/bucket/c.zip", zipped({"a.txt": b"x"}))
    files = find_files(["memory://bucket/*"], SUFFIXES)
    assert [file.name for file in files] == [
        f"memory:///bucket/{name}" for name in ("a.parquet", "b.jsonl.gz", "c.zip")
    ]
    assert [texts(read_raw(file, config())) for file in files] == [TEXTS, TEXTS, ["x"]]
    before = files[0].identity
    system.pipe("/bucket/a.parquet", parquet(["other"]))
    assert files[0].identity != before
    pattern = "memory://bucket/none*"
    expected = f"corpus.files ({pattern}): matches no file; correct the path or the glob"
    assert message_of(ValueError, find_files, [pattern], SUFFIXES) == expected
    message = message_of(ValueError, find_files, ["nowhere://x/a.txt"], SUFFIXES)
    assert message.startswith("corpus.files (nowhere://x/a.txt): cannot be opened (ValueError: ")
    assert message.endswith("); correct the URL, or pip install 'nemotron4-data[remote]'")


def test_web_servers_are_read(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "a.jsonl.gz").write_bytes(COMPRESS[".gz"](jsonl(TEXTS)))
    (tmp_path / "b.parquet").write_bytes(parquet(TEXTS))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        files = find_files([f"{address}/a.jsonl.gz?download=1"], SUFFIXES)
        assert texts(read_raw(files[0], config())) == TEXTS
        assert files[0].identity[:2] == ["a.jsonl.gz", f"{address}/a.jsonl.gz?download=1"]
        missing = f"{address}/none.jsonl"
        expected = f"corpus.files ({missing}): matches no file; correct the path or the glob"
        assert message_of(ValueError, find_files, [missing], SUFFIXES) == expected
        server.shutdown()


def test_a_failing_disk_or_network_is_not_damage(monkeypatch):
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/a.jsonl", jsonl(TEXTS))
    (file,) = find_files(["memory://bucket/a.jsonl"], SUFFIXES)

    def broken(self, *arguments):
        raise TimeoutError("too slow")

    monkeypatch.setattr(type(system.open("/bucket/a.jsonl")), "read", broken)
    with pytest.raises(OSError, match="too slow") as error:
        list(read_raw(file, config()))
    assert (error.value.errno, error.value.filename) == (errno.EIO, "memory:///bucket/a.jsonl")


def test_hugging_face_data_sets_are_streamed(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.jsonl").write_bytes(jsonl(TEXTS))
    (tmp_path / "set/test.jsonl").write_bytes(jsonl(["held"]))
    url = f"hf://datasets/{tmp_path}/set"
    assert texts(read(url)) == TEXTS
    assert texts(read(f"{url}?split=test")) == ["held"]
    message = message_of(OSError, read, f"{url}?split=none")
    assert "cannot be read" in message
    message = message_of(ValueError, read, f"{url}?splt=test")
    expected = f"corpus.files ({url}?splt=test): has no option splt; write hf://datasets/OWNER/NAME?config=C&split=S"
    assert message == f"{expected}&revision=R"


def test_hugging_face_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    url = "hf://datasets/a/b"
    expected = f"corpus.files ({url}): needs Hugging Face's datasets; pip install 'nemotron4-data[hub]'"
    assert message_of(ValueError, read, url) == expected


def test_the_options_of_a_data_set_reach_its_library(monkeypatch):
    seen = []

    def load_dataset(*arguments, **named):
        seen.append((arguments, named))
        return [{"text": "x"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset, __spec__=""))
    assert texts(read("hf://datasets/a/b?config=en&revision=v1")) == ["x"]
    assert seen == [(("a/b", "en"), {"split": "train", "revision": "v1", "streaming": True})]


def test_raw_files_can_be_sent_to_workers(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (file,) = find_files([str(tmp_path / "a.txt")], SUFFIXES)
    assert file == RawFile(str(tmp_path / "a.txt"), str(tmp_path / "a.txt"), 1)
    assert json.dumps(file.identity)
