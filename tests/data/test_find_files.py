"""Finding raw files: odd names, folders, links; whatever is skipped is reported."""

import json
import os

import fsspec
import pytest
from messages import message_of
from raw_files import jsonl, parquet

from nemotron4_data import Corpus, CorpusConfig, TokenizerConfig, run_prepare
from nemotron4_data.documents import read_lines
from nemotron4_data.sources import SUFFIXES, find_files, read_raw


def found(*patterns):
    """Names below the folder, and the warnings."""
    said = []
    return [file.name for file in find_files([str(pattern) for pattern in patterns], SUFFIXES, said.append)], said


@pytest.mark.parametrize("name", ["data[1].jsonl", "a*.jsonl", "what?.jsonl", "**.jsonl", " .jsonl"])
def test_a_name_that_exists_is_not_a_glob(tmp_path, name):
    for other in (name, "data1.jsonl", "ab.jsonl"):
        (tmp_path / other).write_bytes(jsonl(["x"]))
    assert found(tmp_path / name) == ([f"{tmp_path}/{name}"], [])


def test_a_glob_is_still_one(tmp_path):
    for name in ("data1.jsonl", "data2.jsonl", "data3.jsonl"):
        (tmp_path / name).write_bytes(b"")
    assert found(tmp_path / "data[12].jsonl") == ([f"{tmp_path}/data1.jsonl", f"{tmp_path}/data2.jsonl"], [])


def spark_folder(write):
    """Write the files of a Spark table through `write(name, content)`."""
    for number in (1, 0):
        write(f"day=2/part-0000{number}.snappy.parquet", parquet([f"text {number}"]))
    for name in ("_SUCCESS", "._SUCCESS.crc", "day=2/.part-00000.snappy.parquet.crc", "_metadata"):
        write(name, b"")
    write("_temporary/0/part-00009.parquet", b"half")
    write(".hidden.parquet", b"")


@pytest.mark.parametrize("pattern", ["x.parquet", "x.parquet/", "*.parquet", "x.parquet/*"])
def test_a_folder_of_spark_is_its_parts(tmp_path, pattern):
    def write(name, content):
        path = tmp_path / "x.parquet" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    spark_folder(write)
    if pattern.endswith("/*"):
        (tmp_path / "x.parquet/.hidden.parquet").unlink()  # a glob that matches a name with a known suffix means it
    parts = [f"{tmp_path}/x.parquet/day=2/part-0000{number}.snappy.parquet" for number in (0, 1)]
    assert found(f"{tmp_path}/{pattern}") == (parts, [])
    (first, _) = find_files([f"{tmp_path}/{pattern}"], SUFFIXES)
    assert [item.value["text"] for item in read_raw(first, CorpusConfig(name="x", files=["x"]))] == ["text 0"]


def test_a_remote_folder_of_spark_is_its_parts():
    system = fsspec.filesystem("memory")
    spark_folder(lambda name, content: system.pipe(f"/lake/x.parquet/{name}", content))
    parts = [f"memory:///lake/x.parquet/day=2/part-0000{number}.snappy.parquet" for number in (0, 1)]
    assert found("memory://lake/x.parquet") == (parts, [])
    assert found("memory://lake/*.parquet") == (parts, [])


def test_a_folder_is_its_files_of_known_formats(tmp_path):
    for name in ("b.jsonl", "a/c.TXT", "a/notes.pdf", ".git/x.txt", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a/up").symlink_to(tmp_path)  # a circle
    files = [f"{tmp_path}/a/c.TXT", f"{tmp_path}/b.jsonl"]
    said = [f"corpus.files ({tmp_path}): holds 2 file(s) of no known format, such as README; skipped"]
    assert found(tmp_path) == (files, said)
    for name in ("README", "a/up"):
        (tmp_path / name).unlink()
    assert sorted(found(tmp_path / "*")[0]) == files
    (tmp_path / "empty").mkdir()
    message = f"corpus.files ({tmp_path}/empty): matches no file; correct the path or the glob"
    assert message_of(ValueError, found, tmp_path / "empty") == message


def test_broken_links_are_skipped_and_reported(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.jsonl").write_bytes(b"")
    (tmp_path / "d/b.jsonl").symlink_to("nowhere")
    (tmp_path / "d/c.jsonl").symlink_to("c.jsonl")
    os.mkfifo(tmp_path / "d/p.jsonl")
    files, said = found(f"{tmp_path}/**/*.jsonl")
    assert files == [f"{tmp_path}/d/a.jsonl"]
    assert said == [
        f"corpus.files ({tmp_path}/d/b.jsonl): is a broken link to nowhere; skipped",
        f"corpus.files ({tmp_path}/d/c.jsonl): is a broken link to c.jsonl; skipped",
        f"corpus.files ({tmp_path}/d/p.jsonl): is not a plain file; skipped",
    ]
    files, said = found(tmp_path)
    assert (files, len(said)) == ([f"{tmp_path}/d/a.jsonl"], 3)
    message = f"corpus.files ({tmp_path}/d/b.jsonl): is a broken link to nowhere; name another file"
    assert message_of(ValueError, found, tmp_path / "d/b.jsonl") == message


def test_an_unknown_home_directory_is_reported_in_one_line():
    pattern = "~nobody-of-this-name/a.txt"
    rule = "is neither a path nor a glob (Could not determine home directory)"
    assert message_of(ValueError, found, pattern) == f"corpus.files ({pattern!r}): {rule}; correct it"


@pytest.mark.parametrize("files", [[""], ["a.txt", " "]])
def test_an_empty_name_is_refused(files):
    message = f"corpus.files ({files}): has an empty name; write a path, a glob or a URL"
    assert message_of(ValueError, lambda: CorpusConfig(name="x", files=files)) == message


def test_a_name_that_is_not_utf_8_is_read_and_shown(tmp_path, make_job, corpus):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / os.fsdecode(b"caf\xe9.jsonl")).write_bytes(jsonl(["inside"]) + b"broken")
    (raw / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"words")
    job = make_job(
        None,
        tmp_path / "out",
        corpus=CorpusConfig(name="names", files=[f"{raw}/caf*"], heldout_fraction=0.0),
        tokenizer=TokenizerConfig(model=str(corpus.tokenizer.path)),
    )
    run_prepare(job)
    assert Corpus.open(tmp_path / "out", verify=True).sizes("english/documents", "train")["documents"] == 2
    (rejected,) = [json.loads(line) for line in read_lines(tmp_path / "out/rejected/records.jsonl.zst")]
    assert rejected["file"] == f"{raw}/caf\\xe9.jsonl"
    job.corpus.files = [f"{raw}/" + os.fsdecode(b"caf\xe9.txt")]
    run_prepare(job)
    assert Corpus.open(tmp_path / "out").sizes("english/documents", "train")["documents"] == 1
