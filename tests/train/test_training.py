"""The whole of a run in one process: records, resume, damage, refusal."""

import csv
import dataclasses
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from smoke import smoke_job

from nemotron4_common.staging import file_sha256
from nemotron4_data import Corpus
from nemotron4_data.adopt import AdoptJob, adopt
from nemotron4_data.data_config import DataDirConfig
from nemotron4_data.manifest import TOKENIZER_FILE, Manifest
from nemotron4_data.verify import VerifyJob, verify
from nemotron4_model import Recompute, Transformer, initialise
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.reading import Checkpoint
from nemotron4_train.checkpoints.writing import CheckpointWriter
from nemotron4_train.job import (
    DataConfig,
    OptimizerConfig,
    OptimizerKind,
    Precision,
    PrecisionConfig,
    RunConfig,
    TopologyConfig,
    TrainerConfig,
)
from nemotron4_train.launching.launch import launch
from nemotron4_train.launching.preflight import check_checkpoint
from nemotron4_train.lightning.data import StepDataset
from nemotron4_train.lightning.fit import token_stream
from nemotron4_train.reporting.metrics import STEP_COLUMNS, MetricsFile
from nemotron4_train.run_directory import create, exclusive, keep_tokenizer, read_record, write_record
from nemotron4_train.schedule import Timeline

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
    "ignore:torch.distributed is disabled:UserWarning",
)


def run(job):
    launch(job, "# job\n")
    return latest(job)


def latest(job):
    return (job_root(job) / "latest").resolve()


def job_root(job):
    return Path(job.run.root) / job.run.name


def rows(directory, name="metrics.csv"):
    with open(directory / name, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    job = smoke_job(prepared, root)
    return job, run(job)


def losses(directory):
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows(directory)]


def test_a_run_leaves_its_records(undisturbed):
    job, directory = undisturbed
    found = rows(directory)
    assert tuple(found[0]) == STEP_COLUMNS
    assert [int(row["step"]) for row in found] == list(range(1, 13))
    assert [row["phase"] for row in found] == ["warmup"] * 4 + ["main"] * 4 + ["continued"] * 4
    assert [int(row["global_batch_size"]) for row in found] == [4] * 4 + [8] * 8
    assert int(found[-1]["tokens"]) == 4 * 4 * 32 + 8 * 8 * 32
    assert float(found[3]["lr"]) == pytest.approx(job.optimizer.lr)
    assert float(found[-1]["lr"]) == pytest.approx(job.optimizer.lr * 0.001)
    assert float(found[-1]["loss"]) < float(found[0]["loss"])
    assert {row["mfu"] for row in found} == {""}, "the peak of a CPU is not known"
    record = read_record(directory)
    assert (record.state, record.step, record.num_steps) == ("complete", 12, 12)
    assert record.deterministic is True
    validation = rows(directory, "validation.csv")
    assert [int(row["step"]) for row in validation] == [6, 12]
    assert record.objective == pytest.approx(float(validation[-1]["overall"]), abs=1e-6)
    assert (directory / "report.html").is_file()
    assert any((directory / "tensorboard").iterdir())
    steps = [int(path.name.removeprefix("step-")) for path in reading.list_checkpoints(directory)]
    assert steps == [4, 8, 12]


def test_documents_kept_apart_train_on_the_same_samples(prepared, tmp_path, undisturbed):
    data = DataConfig(dir=str(prepared), mask_documents=True)
    directory = run(smoke_job(prepared, tmp_path, data=data))
    state, plain = (
        Checkpoint.open(reading.checkpoint_directory(found, 12)).ledger for found in (directory, undisturbed[1])
    )
    assert state == plain
    apart, together = ([float(row["loss"]) for row in rows(found)] for found in (directory, undisturbed[1]))
    assert apart != together
    assert apart == pytest.approx(together, abs=0.05)


def test_the_ledger_counts_every_token_and_verifies(undisturbed, prepared, tmp_path):
    _, directory = undisturbed
    path = reading.checkpoint_directory(directory, 12)
    state, ledger = json.loads((path / "state.json").read_text()), Checkpoint.open(path).ledger
    assert ledger.samples == 4 * 4 + 8 * 8
    assert sum(counts["tokens"] for counts in ledger.sources.values()) == state["tokens"] == 32 * ledger.samples
    assert [phase["num_samples"] for phase in ledger.timeline] == [4 * 4 + 4 * 8, 4 * 8]
    verify(VerifyJob(data=DataDirConfig(dir=str(prepared)), run=str(directory)))


def test_a_corpus_made_again_under_a_run_is_refused(prepared, tmp_path, undisturbed):
    copy = tmp_path / "corpus"
    shutil.copytree(prepared, copy)
    job = smoke_job(copy, tmp_path)
    first = run(dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=4)))
    manifest = Manifest.load(copy)
    shard = copy / "tokens" / "english" / "books.train.bin"
    shard.write_bytes(shard.read_bytes()[2:] + shard.read_bytes()[:2])
    manifest.stages["tokens"].files["tokens/english/books.train.bin"] = file_sha256(shard)
    manifest.save(copy)
    with pytest.raises(ValueError) as caught:
        launch(job, "")
    old, new = (Corpus.open(directory).digest[:12] for directory in (prepared, copy))
    assert str(caught.value) == (
        f"data.dir ({copy}): digest of the corpus is {new}, but {first}/checkpoints/step-00000004 was trained with "
        f"{old}; restore that corpus, or start over with resume=never"
    )


def test_other_counts_of_the_same_tokens_are_said(prepared, tmp_path, undisturbed, capsys):
    job, directory = undisturbed
    shutil.copytree(prepared, tmp_path / "corpus")
    manifest = Manifest.load(tmp_path / "corpus")
    manifest.stages["documents"].facts["rejected"] = {"no text": 1}
    manifest.save(tmp_path / "corpus")
    timeline = Timeline(job.schedule, 99)
    for corpus_directory, said in ((prepared, False), (tmp_path / "corpus", True)):
        other = dataclasses.replace(job, data=dataclasses.replace(job.data, dir=str(corpus_directory)))
        assert check_checkpoint(other, Corpus.open(corpus_directory), directory, timeline) == 12
        assert capsys.readouterr().err == said * (
            f"data.dir ({corpus_directory}): its tokens are those that {directory}/checkpoints/step-00000012 was"
            " trained with, but its manifest differs in documents or counts; see `nemotron4 data verify`\n"
        )


def test_stopped_and_resumed_equals_undisturbed_bit_for_bit(prepared, tmp_path, undisturbed):
    job = smoke_job(prepared, tmp_path)
    first = run(dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=6)))
    assert read_record(first).step == 6
    second = run(dataclasses.replace(job, data=dataclasses.replace(job.data, num_workers=2)))
    assert second == first
    assert losses(second) == losses(undisturbed[1])
    for domain in ("english", "multilingual", "code"):
        whole, parts = (
            [int(row["loss_tokens"]) for row in rows(found, "domains.csv") if row["domain"] == domain]
            for found in (undisturbed[1], second)
        )
        assert sum(parts) == sum(whole)
    for path in sorted((undisturbed[1] / "checkpoints" / "step-00000012").glob("*.distcp")):
        assert (second / "checkpoints" / "step-00000012" / path.name).read_bytes() == path.read_bytes()


def test_a_checkpoint_finds_the_rows_of_its_steps_written(prepared, tmp_path, monkeypatch):
    write, save, found = MetricsFile._write, CheckpointWriter.save, []

    def slow_write(self, row):
        time.sleep(0.2)
        write(self, row)

    def save_and_look(self, state, *arguments):
        counts = (len(rows(tmp_path / "smoke" / "latest", name)) for name in ("metrics.csv", "validation.csv"))
        found.append((state.step, *counts))
        save(self, state, *arguments)

    monkeypatch.setattr(MetricsFile, "_write", slow_write)
    monkeypatch.setattr(CheckpointWriter, "save", save_and_look)
    cadence = {"save_interval_steps": 2, "validation_interval_steps": 2, "validation_bytes_per_source": 300}
    run(smoke_job(prepared, tmp_path, trainer=TrainerConfig(max_steps=4, **cadence)))
    assert found == [(2, 2, 1), (4, 4, 2)]


def test_a_finished_run_is_left_alone_and_a_new_one_begun(prepared, tmp_path):
    job = smoke_job(prepared, tmp_path, trainer=TrainerConfig(max_steps=1, validation_bytes_per_source=300))
    assert run(job) != run(job)


def test_a_run_killed_after_its_last_checkpoint_is_completed(prepared, tmp_path, capsys):
    job = smoke_job(prepared, tmp_path)
    directory = run(job)
    finished = read_record(directory)
    write_record(directory, dataclasses.replace(finished, state="running", objective=None))
    (directory / "report.html").unlink()
    (directory / "tokenizer.model").unlink()
    assert run(job) == directory
    found = read_record(directory)
    assert found == dataclasses.replace(finished, objective=pytest.approx(finished.objective, abs=1e-6))
    assert (directory / "report.html").is_file()
    assert file_sha256(directory / "tokenizer.model") == finished.tokenizer
    write_record(directory, dataclasses.replace(finished, state="running"))
    (directory / "eval.json").write_text('{"bytes": 1}')  # a report that cannot be drawn makes no run a failed one
    capsys.readouterr()
    assert run(job) == directory
    assert read_record(directory).state == "complete"
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"{directory}: report.html was not written ({directory}/eval.json: not the result of an evaluation"
        " (KeyError('bits_per_byte')); evaluate again, or remove it)"
    ]


def test_a_run_of_an_older_version_gets_a_name_and_its_tokenizer(prepared, tmp_path):
    job = smoke_job(prepared, tmp_path)
    directory, corpus = tmp_path / "run", Corpus.open(prepared)
    create(directory, job, "", 12)
    record = json.loads((directory / "run.json").read_text())
    del record["id"], record["tokenizer"]  # as an older version wrote it
    (directory / "run.json").write_text(json.dumps(record))
    create(directory, job, "", 12)
    keep_tokenizer(directory, corpus)
    found = read_record(directory)
    assert found.tokenizer == corpus.tokenizer_digest == file_sha256(directory / "tokenizer.model")
    assert re.fullmatch("[0-9a-f]{32}", found.id)
    create(directory, job, "", 12)
    assert read_record(directory) == found
    create(directory, dataclasses.replace(job, resume="never"), "", 12)  # which starts anew
    assert read_record(directory).id != found.id
    (directory / "tokenizer.model").write_text("mine")
    with pytest.raises(ValueError) as caught:
        keep_tokenizer(directory, corpus)
    assert str(caught.value) == (
        f"run.dir ({directory}): contains tokenizer.model, which this program did not create: move it elsewhere"
    )


def test_another_topology_goes_on_in_the_same_directory(prepared, tmp_path, undisturbed):
    job = smoke_job(prepared, tmp_path)
    first = run(dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=6)))
    job = dataclasses.replace(job, topology=TopologyConfig(micro_batch_size=2, recompute=Recompute.full))
    assert run(job) == first
    assert losses(first)[:6] == losses(undisturbed[1])[:6]
    expected = [float(loss) for _, loss, _ in losses(undisturbed[1])]
    assert [float(loss) for _, loss, _ in losses(first)] == pytest.approx(expected, rel=1e-5)


def test_more_micro_batches_give_the_same_losses(prepared, tmp_path, undisturbed):
    directory = run(smoke_job(prepared, tmp_path, topology=TopologyConfig(micro_batch_size=2)))
    expected = [float(loss) for _, loss, _ in losses(undisturbed[1])]
    assert [float(loss) for _, loss, _ in losses(directory)] == pytest.approx(expected, rel=1e-5)


def first_loss_in_bf16(job):
    timeline = job.timeline()
    batch = StepDataset(token_stream(job, Corpus.open(job.data.dir), timeline), timeline, 0, 1)[0]
    model = Transformer(job.model)
    initialise(model, job.seed, job.model)
    model.bfloat16()
    halves = zip(batch["inputs_BT"].split(2), batch["targets_BT"].split(2), strict=True)
    return float(torch.stack([model(inputs, targets).mean.detach() for inputs, targets in halves]).mean())


def test_bf16_follows_fp32(prepared, tmp_path, undisturbed):
    topology = TopologyConfig(micro_batch_size=2)
    job = smoke_job(prepared, tmp_path, precision=PrecisionConfig(compute=Precision.bf16), topology=topology)
    environment = dict(os.environ)
    directory = run(job)
    assert not dist.is_initialized(), "the next run of this process may be in fp32"
    assert dict(os.environ) == environment
    expected = [float(loss) for _, loss, _ in losses(undisturbed[1])]
    found = [float(loss) for _, loss, _ in losses(directory)]
    assert found == pytest.approx(expected, rel=5e-3)
    assert found != expected
    # As on a mesh, bf16 throughout: autocast would keep the residual stream and the norms in fp32.
    assert found[0] == pytest.approx(first_loss_in_bf16(job), rel=1e-6)
    job = dataclasses.replace(job, run=RunConfig(name="smoke", root=str(tmp_path / "again")))
    run(dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=7)))
    assert losses(run(job)) == losses(directory), "resumed to the bit"


def test_muon_resumes_bit_for_bit(prepared, tmp_path):
    job = smoke_job(prepared, tmp_path / "a", optimizer=OptimizerConfig(kind=OptimizerKind.muon))
    whole = run(job)
    fractions = [job.timeline().step(step).learning_rate_fraction for step in range(12)]
    muon_lr = job.optimizer.muon_lr
    assert [float(row["lr"]) for row in rows(whole)] == pytest.approx([muon_lr * fraction for fraction in fractions])
    job = dataclasses.replace(job, run=RunConfig(name="smoke", root=str(tmp_path / "b")))
    run(dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=7)))
    assert losses(run(job)) == losses(whole)


def test_refusals(prepared, tmp_path, undisturbed):
    job, directory = undisturbed
    with pytest.raises(
        ValueError, match=r"^data.dir \(nowhere\): no such directory; make it with `nemotron4 prepare`$"
    ):
        launch(smoke_job(prepared, tmp_path, data=DataConfig(dir="nowhere")), "")
    small = dataclasses.replace(job.model, vocab_size=512)
    with pytest.raises(ValueError) as caught:
        launch(smoke_job(prepared, tmp_path, model=small), "")
    assert str(caught.value) == (
        f"model.vocab_size (512): smaller than the 1024 pieces of the tokenizer in {prepared}; raise it or prepare the"
        " corpus with a smaller tokenizer.vocab_size"
    )
    other = smoke_job(prepared, tmp_path, seed=9, run=RunConfig(dir=str(directory)))
    with pytest.raises(ValueError, match=r"^run.dir \(.*\): belongs to another job"):
        launch(other, "")
    with pytest.raises(
        ValueError, match=r"^resume \(nowhere\): not a complete checkpoint \(it has no manifest.json\)$"
    ):
        launch(smoke_job(prepared, tmp_path, resume="nowhere"), "")
    same = dataclasses.replace(job, run=RunConfig(dir=str(directory)))
    with exclusive(directory), pytest.raises(ValueError, match=f"in use by process {os.getpid()} on "):
        launch(same, "")


def test_a_checkpoint_off_the_timeline_is_refused(prepared, tmp_path, undisturbed):
    job, directory = undisturbed
    last = reading.checkpoint_directory(directory, 12)
    with pytest.raises(ValueError) as caught:
        launch(smoke_job(prepared, tmp_path, resume=str(last)), "")
    assert str(caught.value) == (
        f"resume ({last}): has done 12 steps, and this run ends after 12; append phases to its schedule, as in"
        " 'schedule=[FIRST,SECOND]', or raise trainer.max_steps"
    )
    phases = {**job.schedule.phases, "more": dataclasses.replace(job.schedule.phases["continued"])}
    phases["warmup"] = dataclasses.replace(phases["warmup"], global_batch_size=2)
    schedule = dataclasses.replace(job.schedule, phases=phases)
    with pytest.raises(ValueError) as caught:
        launch(smoke_job(prepared, tmp_path, resume=str(last), schedule=schedule), "")
    assert str(caught.value) == (
        f"resume ({last}): has read 2,560 tokens in 12 steps, but the first 12 steps of this schedule read 1,536;"
        " start the schedule with the phases that the checkpoint was trained on"
    )


def test_phases_appended_continue_a_finished_run(prepared, tmp_path, undisturbed):
    job, directory = undisturbed
    phases = {**job.schedule.phases, "more": dataclasses.replace(job.schedule.phases["continued"])}
    longer = smoke_job(prepared, tmp_path / "whole", schedule=dataclasses.replace(job.schedule, phases=phases))
    whole = run(longer)
    last = reading.checkpoint_directory(directory, 12)
    rest = run(dataclasses.replace(longer, run=RunConfig(name="rest", root=str(tmp_path)), resume=str(last)))
    assert losses(whole)[:12] == losses(directory)
    assert losses(rest) == losses(whole)[12:]
    assert [row["phase"] for row in rows(rest)] == ["more"] * 4
    ledgers = [Checkpoint.open(reading.checkpoint_directory(found, 16)).ledger for found in (whole, rest)]
    assert ledgers[0] == ledgers[1]


def test_a_corpus_without_held_out_text_is_refused_before_training(prepared, tmp_path):
    copy, sources = tmp_path / "corpus", ("english/books", "multilingual/de", "code/c")
    train = [f"{source}:{prepared}/tokens/{source}.train" for source in sources]
    adopt(AdoptJob(dir=str(copy), tokenizer_model=str(prepared / TOKENIZER_FILE), train=train))
    with pytest.raises(ValueError) as caught:
        launch(smoke_job(copy, tmp_path), "")
    assert str(caught.value) == (
        f"data.dir ({copy}): has no held-out text to validate on; prepare it again with a larger held-out share, or"
        " adopt held-out shards with it"
    )
