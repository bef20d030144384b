"""Killed at any moment and rerun, `nemotron4 prepare` does only what is missing and writes the same bytes."""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from raw_files import COMPRESS, jsonl, tar
from tiny_corpus import write_tiny_corpus

from nemotron4_common.staging import task_directory
from nemotron4_data import Corpus, CorpusConfig, ExecutorConfig, PrepareJob, TokenizerConfig, run_prepare
from nemotron4_data import document_stage as stage_module
from nemotron4_data import ingest as ingest_module
from nemotron4_data import tokenise as tokenise_module
from nemotron4_data.curation import CurationConfig
from nemotron4_data.curation.dedup_config import DedupConfig

# A run in a process of its own, in many small tasks, that kills itself at the n-th of the moments that matter: before
# and after each rename, each fsync, each write of frames. With n = 0 it counts them.
RUN = """
import os, pathlib, pickle, signal, sys
from nemotron4_common import staging
from nemotron4_data import document_stage, documents, filtering, ingest, run_prepare, tokenise

moment, last = 0, int(sys.argv[2])

def counted(function):
    def run(*arguments, **named):
        global moment
        result = function(*arguments, **named)
        moment += 1
        if moment == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return run

ingest._TASK_BYTES, ingest._PART_BYTES, documents._FRAME_BYTES = 15_000, 15_000, 4_000
staging.sync = counted(staging.sync)
pathlib.Path.rename, pathlib.Path.replace = counted(pathlib.Path.rename), counted(pathlib.Path.replace)
staging.shutil.rmtree = counted(staging.shutil.rmtree)
documents.FrameWriter._append = counted(documents.FrameWriter._append)
document_stage.file_by_source = counted(document_stage.file_by_source)
tokenise.encode_chunk = counted(tokenise.encode_chunk)
run_prepare(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))
print(moment)
"""


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr(ingest_module, "_TASK_BYTES", 15_000)
    monkeypatch.setattr(ingest_module, "_PART_BYTES", 15_000)
    monkeypatch.setattr("nemotron4_data.documents._FRAME_BYTES", 4_000)


def write_raw(directory):
    write_tiny_corpus(directory, num_documents=160)
    copies = [f"copy number {number % 7}" for number in range(20)]
    (directory / "z.tar").write_bytes(tar({"a.jsonl": jsonl(copies), "../b.txt": b"x"}))
    (directory / "y.jsonl.gz").write_bytes(COMPRESS[".gz"](jsonl(["cut " * 50] * 30))[:-9])


def job_of(raw, out, num_workers=1):
    return PrepareJob(
        corpus=CorpusConfig(name="tiny", files=[f"{raw}/*"]),
        curation=CurationConfig(dedup=DedupConfig(exact=True)),
        tokenizer=TokenizerConfig(vocab_size=1024),
        executor=ExecutorConfig(num_workers=num_workers),
        dir=str(out),
    )


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def run_killed_at(moment, job_file, cwd):
    command = [sys.executable, "-c", RUN, str(job_file), str(moment)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=200)


def test_killed_at_random_moments_and_rerun_it_ends_with_the_same_bytes(tmp_path):
    write_raw(tmp_path / "raw")
    job_file = tmp_path / "job"
    job_file.write_bytes(pickle.dumps(job_of(tmp_path / "raw", "out")))
    whole = run_killed_at(0, job_file, tmp_path)
    assert whole.returncode == 0, whole.stderr
    num_moments = int(whole.stdout)
    expected = contents(tmp_path / "out")
    assert num_moments > 100
    assert {name.split("/")[0] for name in expected} == {
        "documents",
        "manifest.json",
        "prepare.lock",
        "rejected",
        "report.html",
        "tokenizer",
        "tokens",
    }
    draw = random.Random(4)
    for _ in range(3):
        shutil.rmtree(tmp_path / "out")
        # Two kills, the second in the rerun; then it is let through.
        for moment in sorted(draw.sample(range(1, num_moments), 2), reverse=True):
            killed = run_killed_at(moment, job_file, tmp_path)
            assert killed.returncode in (-signal.SIGKILL, 0)
        assert run_killed_at(-1, job_file, tmp_path).returncode == 0
        assert contents(tmp_path / "out") == expected


def test_the_bytes_do_not_depend_on_workers_or_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ingest_module, "_TASK_BYTES", 15_000)
    write_raw(tmp_path / "raw")
    for name, num_workers in (("a", 1), ("b", 2)):
        run_prepare(job_of(tmp_path / "raw", "out", num_workers))
        (tmp_path / "out").rename(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_rerun_does_only_the_missing_tasks(tmp_path, small_tasks, monkeypatch):
    write_raw(tmp_path / "raw")
    job = job_of(tmp_path / "raw", tmp_path / "out")
    filtered = []
    original = stage_module.filter_shard

    def dies_at_third(task):
        if len(filtered) == 3:
            raise KeyboardInterrupt
        filtered.append(task.output.name)
        return original(task)

    monkeypatch.setattr(stage_module, "filter_shard", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        run_prepare(job)
    work = tmp_path / "out/documents.work"
    assert sorted(path.name for path in (work / "filtered").iterdir()) == ["000000", "000001", "000002"]
    num_shards = len(list((work / "ingest").glob("*.parts/*/documents.jsonl.zst")))
    again = []
    monkeypatch.setattr(stage_module, "filter_shard", lambda task: (again.append(task.output.name), original(task)))
    monkeypatch.setattr(stage_module, "ingest", lambda task: pytest.fail("ingested again"))
    run_prepare(job)
    assert again == [f"{number:06}" for number in range(3, num_shards)]
    assert not work.exists()
    Corpus.open(tmp_path / "out", verify=True)


def made_again(directory, run):
    """The directories in it that `run` did not leave as they were."""
    before = {path: path.stat().st_ino for path in directory.iterdir() if path.is_dir()}
    run()
    return {path.name for path, inode in before.items() if not path.is_dir() or path.stat().st_ino != inode}


def test_a_killed_task_resumes_after_its_last_part(tmp_path, small_tasks, monkeypatch):
    monkeypatch.setattr(ingest_module, "_TASK_BYTES", 10**9)
    write_raw(tmp_path / "raw")
    files = [stage_module.RawFile(path.name, str(path), 1) for path in sorted((tmp_path / "raw").iterdir())]
    config = CorpusConfig(name="x", files=["x"])

    def task(name):
        (tmp_path / name).mkdir(exist_ok=True)
        (only,) = ingest_module.plan_ingest(files, config, CurationConfig(), tmp_path / name)
        return only

    ingest_module.ingest(task("whole"))
    reports = list(ingest_module.load_parts(task("whole").output))
    assert len(reports) > 5
    assert sum(bool(report.rejected.counts) for report in reports) >= 1
    original = ingest_module.PartReport.save
    for dies_at in (1, 4):
        saved = []

        def dies(report, directory, dies_at=dies_at, saved=saved):
            if len(saved) == dies_at:
                raise KeyboardInterrupt
            saved.append(original(report, directory))

        with monkeypatch.context() as patch:
            patch.setattr(ingest_module.PartReport, "save", dies)
            with pytest.raises(KeyboardInterrupt):
                ingest_module.ingest(task("killed"))
    parts = tmp_path / "killed/000000.parts"
    assert sorted(path.name for path in parts.iterdir()) == [f"{number:06}" for number in range(5)]
    assert not task("killed").output.exists()
    assert made_again(parts, lambda: ingest_module.ingest(task("killed"))) == set()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_task_that_lost_a_part_is_refused(tmp_path, small_tasks, monkeypatch):
    monkeypatch.setattr(ingest_module, "_TASK_BYTES", 10**9)
    write_raw(tmp_path / "raw")
    job = job_of(tmp_path / "raw", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "deduplicate", lambda *arguments: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            run_prepare(job)
    task = tmp_path / "out/documents.work/ingest/000000"
    shutil.rmtree(max(Path(f"{task}.parts").iterdir()))
    with pytest.raises(OSError) as error:
        run_prepare(job)
    assert str(error.value) == f"{task}: some of its parts are missing; remove it and rerun `nemotron4 prepare`"
    task.rmdir()
    run_prepare(job)
    run_prepare(job_of(tmp_path / "raw", tmp_path / "at_once"))
    assert contents(tmp_path / "out/tokens") == contents(tmp_path / "at_once/tokens")


def test_finished_tokens_survive_a_kill(tmp_path, small_tasks, monkeypatch):
    monkeypatch.setattr(tokenise_module, "_TASK_BYTES", 10_000)
    write_raw(tmp_path / "raw")
    job = job_of(tmp_path / "raw", tmp_path / "out")
    encoded = []
    original = tokenise_module.encode_chunk

    def dies_at_fifth(lines, tokenizer):
        if len(encoded) == 5:
            raise KeyboardInterrupt
        encoded.append(lines)
        return original(lines, tokenizer)

    with monkeypatch.context() as patch:
        patch.setattr(tokenise_module, "encode_chunk", dies_at_fifth)
        with pytest.raises(KeyboardInterrupt):
            run_prepare(job)
    again = []
    monkeypatch.setattr(
        tokenise_module, "encode_chunk", lambda lines, tokenizer: again.append(lines) or original(lines, tokenizer)
    )
    run_prepare(job)
    assert again
    done = {lines for lines in encoded if lines not in again}
    assert len(done) >= 3  # but for those of the task under way
    Corpus.open(tmp_path / "out", verify=True)
    run_prepare(job_of(tmp_path / "raw", tmp_path / "at_once"))
    assert contents(tmp_path / "out/tokens") == contents(tmp_path / "at_once/tokens")


def test_work_of_other_settings_is_not_used(tmp_path, small_tasks, monkeypatch):
    write_raw(tmp_path / "raw")
    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "filter_shard", lambda task: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            run_prepare(job_of(tmp_path / "raw", tmp_path / "out"))
    job = job_of(tmp_path / "raw", tmp_path / "out")
    job.corpus.max_document_bytes = 500
    run_prepare(job)
    facts = Corpus.open(tmp_path / "out").manifest.stages["documents"].facts
    assert facts["rejected"]["longer than corpus.max_document_bytes"] > 10


def test_the_manifest_records_what_curation_did(tmp_path, small_tasks):
    write_raw(tmp_path / "raw")
    run_prepare(job_of(tmp_path / "raw", tmp_path / "out"))
    facts = Corpus.open(tmp_path / "out").manifest.stages["documents"].facts
    dropped = facts["dedup"]["exact"]["dropped"]["english/documents"]
    kept = facts["sources"]["english/documents"]
    num_lines = sum(path.read_bytes().count(b"\n") for path in (tmp_path / "raw").glob("*.jsonl"))
    assert dropped["documents"] + sum(count["documents"] for count in kept.values()) >= 20
    assert facts["curation"] == {"steps": []}
    total = sum(count["documents"] for splits in facts["sources"].values() for count in splits.values())
    assert total == num_lines + kept["train"]["documents"] + kept.get("heldout", {"documents": 0})["documents"]
    example = facts["dedup"]["exact"]["examples"][0]
    assert set(example) == {"id", "kept_id", "source", "text"}


def test_small_files_share_a_task_and_large_ones_have_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest_module, "_TASK_BYTES", 100)
    sizes = [10, 20, 90, 5, 500, 1, 2, None, 3]
    files = [stage_module.RawFile(str(n), f"/{n}", size) for n, size in enumerate(sizes)]
    config = CorpusConfig(name="x", files=["x"])
    tasks = ingest_module.plan_ingest(files, config, CurationConfig(), Path("w"))
    assert [[file.size for file in task.files] for task in tasks] == [[10, 20], [90, 5], [500], [1, 2], [None], [3]]


def test_a_second_process_with_the_same_task_does_no_harm(tmp_path):
    with task_directory(tmp_path / "task") as mine, task_directory(tmp_path / "task") as other:
        assert mine != other
        (mine / "x").write_text("x")
        (other / "x").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["task"]
    assert os.listdir(tmp_path / "task") == ["x"]
