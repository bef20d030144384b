"""Foreign files survive: what is refused before anything is written, and what two simultaneous processes see."""

import errno
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time

import pytest

from nemotron4_common import locks, staging
from nemotron4_data import Corpus, CorpusConfig, TokenizerConfig, run_prepare
from nemotron4_data.adopt import AdoptJob, adopt
from nemotron4_data.curation import CurationConfig
from nemotron4_data.curation.config import DecontaminationConfig
from nemotron4_data.curation.quality_config import QualityConfig

RECORDS = "".join(json.dumps({"id": str(n), "text": f"document {n}", "split": "train"}) + "\n" for n in range(3))


def content_of(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def message_of(function, *arguments):
    with pytest.raises(ValueError) as caught:
        function(*arguments)
    return str(caught.value)


def write(path, text="mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def job(tmp_path, make_job, tokenizer):
    """A corpus of three documents, with an existing tokenizer."""
    write(tmp_path / "raw/a.jsonl", RECORDS)
    files = CorpusConfig(name="wiki", files=[f"{tmp_path}/raw/*.jsonl"])
    model = TokenizerConfig(model=str(tokenizer.path))
    return make_job(None, tmp_path / "wiki", corpus=files, tokenizer=model)


@pytest.fixture
def prepared(job, tmp_path):
    run_prepare(job)
    return tmp_path / "wiki"


def test_raw_files_in_the_output_are_refused_and_nothing_is_touched(job, tmp_path):
    raw = write(tmp_path / "wiki/documents/a.jsonl", RECORDS)
    for name in ("tokens/notes.txt", "rejected/list.txt"):
        write(tmp_path / "wiki" / name)
    before = content_of(tmp_path)
    job.corpus.files = [f"{tmp_path}/wiki/documents/*.jsonl"]
    assert message_of(run_prepare, job) == (f"dir ({tmp_path}/wiki): contains corpus.files ({raw}): choose another dir")
    assert content_of(tmp_path) == before


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("tokenizer", TokenizerConfig(model="wiki/t.model"), "contains tokenizer.model (wiki/t.model)"),
        (
            "curation",
            CurationConfig(quality=QualityConfig(domains=["english"], model_dir=".")),
            "is inside curation.quality.model_dir (.)",
        ),
        (
            "curation",
            CurationConfig(decontamination=DecontaminationConfig(benchmarks={"b": ["wiki/*.txt"]})),
            "contains curation.decontamination.benchmarks.b (wiki/b.txt)",
        ),
        ("corpus", CorpusConfig(name="wiki", files=["link/x.jsonl"]), "contains corpus.files ({}/link/x.jsonl)"),
        ("dir", "link", "contains corpus.files ({}/wiki/x.jsonl)"),
    ],
)
def test_no_output_contains_or_lies_in_an_input(job, tmp_path, monkeypatch, setting, value, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "wiki/x.jsonl", RECORDS)
    write(tmp_path / "wiki/b.txt")
    (tmp_path / "link").symlink_to("wiki")
    if setting == "dir":
        job.corpus.files = ["wiki/*.jsonl"]
    setattr(job, setting, value)
    before = content_of(tmp_path)
    assert message_of(run_prepare, job) == f"dir ({job.dir}): {message.format(tmp_path)}: choose another dir"
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "tokens/notes.txt", "documents.partial/notes.txt", ".git/config"])
def test_a_foreign_directory_is_refused(job, tmp_path, name):
    write(tmp_path / "wiki" / name)
    before = content_of(tmp_path)
    assert message_of(run_prepare, job) == (
        f"dir ({tmp_path}/wiki): contains {name.split('/')[0]}, which this program did not create: "
        "give a directory that is empty or does not exist"
    )
    assert content_of(tmp_path) == before


def test_a_file_and_the_manifest_of_another_program_are_refused(job, tmp_path):
    write(tmp_path / "wiki")
    expected = f"dir ({tmp_path}/wiki): is not a directory: give one that is empty or does not exist"
    assert message_of(run_prepare, job) == expected
    (tmp_path / "wiki").unlink()
    write(tmp_path / "wiki/manifest.json", '{"name": "a web application"}')
    assert message_of(run_prepare, job) == (
        f"{tmp_path}/wiki/manifest.json: not a readable manifest ('stages'); "
        f"move {tmp_path}/wiki away and rerun `nemotron4 prepare`"
    )
    assert content_of(tmp_path / "wiki") == {"manifest.json": b'{"name": "a web application"}'}


@pytest.mark.parametrize("name", ["tokens/notes.txt", "rejected/a/b", "documents"])
def test_a_file_added_to_a_corpus_is_kept_and_stops_what_would_replace_it(job, prepared, name):
    if name == "documents":  # a link in the place of ours
        shutil.rmtree(prepared / name)
        write(prepared.parent / "elsewhere/mine")
        (prepared / name).symlink_to("../elsewhere")
        folder, foreign = name, "documents/mine"
    else:
        write(prepared / name)
        folder, foreign = name.split("/")[0], name
        run_prepare(job)  # nothing to do
    job.corpus.heldout_fraction = 0.5
    before = content_of(prepared)
    assert message_of(run_prepare, job) == (
        f"dir ({prepared}/{folder}): would be replaced, and {prepared}/{foreign} would be lost: move it elsewhere"
    )
    assert content_of(prepared) == before
    shutil.rmtree(prepared.parent / "elsewhere") if name == "documents" else (prepared / name).unlink()
    if name == "documents":
        (prepared / name).unlink()
    run_prepare(job)
    Corpus.open(prepared, verify=True)


@pytest.mark.parametrize("name", ["tokens.partial", "tokens.work"])
def test_foreign_unfinished_work_is_left_alone(job, prepared, name):
    write(prepared / name / "notes.txt")
    (prepared / "tokens/english/documents.train.bin").unlink()
    assert message_of(run_prepare, job) == (
        f"dir ({prepared}/{name}): is reserved for unfinished work, but contains notes.txt, "
        "which this program did not create: move it elsewhere"
    )
    assert (prepared / name / "notes.txt").read_text() == "mine"


def test_a_killed_run_of_an_older_version_is_resumed(job, tmp_path):
    write(tmp_path / "wiki/documents.work/key", "0" * 64)
    write(tmp_path / "wiki/documents.work/ingest/000000.x.partial/half")
    write(tmp_path / "wiki/documents.partial/english/half")
    run_prepare(job)
    write(tmp_path / "wiki/.manifest.json.0a1b2c3d.partial")
    (tmp_path / "wiki/tokens.work").mkdir()  # emptied, and killed then
    run_prepare(job)
    Corpus.open(tmp_path / "wiki", verify=True)
    assert {path.name for path in (tmp_path / "wiki").iterdir()} == {
        *("manifest.json", "report.html", ".verified.json", "prepare.lock"),
        *("documents", "rejected", "tokenizer", "tokens"),
    }


def test_a_corpus_of_an_older_version_is_rebuilt(job, prepared):
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert manifest.pop("others") == ["rejected/records.jsonl.zst"]
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    job.corpus.heldout_fraction = 0.5
    run_prepare(job)
    Corpus.open(prepared, verify=True)


def test_adopting_into_the_place_of_the_shards_is_refused(corpus, tmp_path):
    for suffix in (".bin", ".idx"):
        (tmp_path / "mega").mkdir(exist_ok=True)
        shutil.copy(f"{corpus.dir}/tokens/english/web.train{suffix}", tmp_path / f"mega/u16{suffix}")
    write(tmp_path / "mega/README")
    before = content_of(tmp_path)
    shards = {"tokenizer_model": str(corpus.tokenizer.path), "train": [f"english/web:{tmp_path}/mega/u16"]}
    assert message_of(adopt, AdoptJob(dir=str(tmp_path / "mega"), **shards)) == (
        f"dir ({tmp_path}/mega): contains README, which this program did not create: "
        "give a directory that is empty or does not exist"
    )
    assert content_of(tmp_path) == before
    (tmp_path / "empty").mkdir()
    adopt(AdoptJob(dir=str(tmp_path / "empty"), **shards))
    assert Corpus.open(tmp_path / "empty", verify=True).source_names == ["english/web"]
    assert {path.name for path in tmp_path.iterdir()} == {"mega", "empty"}


def test_adopting_a_directory_that_an_unset_variable_leaves_empty():
    assert message_of(lambda: AdoptJob(dir="", tokenizer_model="t", train=["a/b:c"])) == (
        "dir (''): must name the directory of the new corpus"
    )


def test_a_second_process_is_refused_and_the_lock_of_a_killed_one_is_not(job, tmp_path):
    """The first waits, in the middle of its work, for data from a pipe."""
    os.mkfifo(tmp_path / "raw/z.jsonl")
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    script = (
        "import pickle, sys; from nemotron4_data import run_prepare; run_prepare(pickle.load(open(sys.argv[1], 'rb')))"
    )
    first = subprocess.Popen([sys.executable, "-c", script, tmp_path / "job"], stderr=subprocess.DEVNULL)
    try:
        while (held := locks.holder(tmp_path / "wiki/prepare.lock")) is None or not held[1]:
            assert first.poll() is None
            time.sleep(0.05)
        assert message_of(run_prepare, job) == (
            f"dir ({tmp_path}/wiki): in use by process {first.pid} on {socket.gethostname()}: "
            "wait for it to end, or choose another dir"
        )
    finally:
        first.kill()
        first.wait()
    (tmp_path / "raw/z.jsonl").unlink()
    run_prepare(job)
    Corpus.open(tmp_path / "wiki", verify=True)


@pytest.mark.parametrize("answer", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_directories_is_used(job, tmp_path, monkeypatch, answer):
    original = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(answer, os.strerror(answer))
        original(descriptor)

    monkeypatch.setattr(staging.os, "fsync", fsync)
    run_prepare(job)
    Corpus.open(tmp_path / "wiki", verify=True)
