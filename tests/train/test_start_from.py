"""Runs that begin with the weights of a model directory, as transformers writes and reads them."""

import csv
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from composed import composed, status_of
from distributed import run_distributed
from messages import message_of
from own_tasks import write_tasks
from smoke import run, smoke_job
from start_worker import fit_all
from tiny_tokenizer import train_tiny_tokenizer

from nemotron4_common.staging import file_sha256
from nemotron4_config.command import command_loaders
from nemotron4_config.interruption import Interruption
from nemotron4_config.main import run_reporting_errors
from nemotron4_data import Corpus
from nemotron4_data.added_pieces import add_pieces
from nemotron4_data.manifest import TOKENIZER_FILE, Manifest
from nemotron4_model import load_config
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.export import ExportJob, export_checkpoint
from nemotron4_train.evaluation import EvaluationConfig
from nemotron4_train.job import RunConfig, TrainerConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.lightning.data import StepDataset
from nemotron4_train.lightning.fit import token_stream
from nemotron4_train.reporting.metrics import read_rows
from nemotron4_train.run_directory import create, read_record
from nemotron4_train.schedule import LearningRate, Schedule, Shape
from nemotron4_train.topology import TopologyConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
    "ignore:torch.distributed is disabled:UserWarning",
)
VOCAB_SIZE = 1_152  # of which the tokenizer has 1,024 pieces


@pytest.fixture(scope="module")
def published(prepared, tmp_path_factory) -> Path:
    """A random model that transformers wrote, in several files, with the corpus's tokenizer."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.NemotronConfig(
        vocab_size=VOCAB_SIZE, hidden_size=40, intermediate_size=48, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=None,
        initializer_range=0.05,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("published")
    transformers.NemotronForCausalLM(config).save_pretrained(directory, max_shard_size="60KB")
    assert len(list(directory.glob("*.safetensors"))) > 3
    shutil.copyfile(prepared / TOKENIZER_FILE, directory / "tokenizer.model")
    return directory


def job_from(directory, prepared, root, **changes):
    fields = {"start_from": str(directory), "model": load_config(directory), "trainer": TrainerConfig(max_steps=1)}
    return smoke_job(prepared, root, **fields | changes)


def first_loss(run_directory):
    with open(run_directory / "metrics.csv", newline="") as file:
        return float(next(csv.DictReader(file))["loss"])


def loss_of_transformers(directory, job):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
    timeline = job.timeline()
    batch = StepDataset(token_stream(job, Corpus.open(job.data.dir), timeline), timeline, 0, 1)[0]
    with torch.no_grad():
        logits = model(batch["inputs_BT"].long()).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets_BT"].long().flatten()))


# lm-eval and the libraries below it warn about themselves; nothing here can act on that.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_first_loss_is_that_of_transformers_in_one_process_and_in_two(published, prepared, tmp_path):
    """So are evaluations during training, whose windows the ranks share out."""
    tasks = write_tasks(tmp_path / "tasks") if find_spec("lm_eval") else []
    job = job_from(published, prepared, tmp_path, evaluation=EvaluationConfig(tasks=tasks))
    theirs, alone = loss_of_transformers(published, job), run(job)
    assert first_loss(alone) == pytest.approx(theirs, abs=1e-5)
    runs = []
    for name, mesh in (("shard", {"shard": 2}), ("tensor", {"tensor": 2})):
        on_two = replace(job, topology=TopologyConfig(**mesh, micro_batch_size=2))
        create(tmp_path / name, on_two, "# job\n", 1)
        runs.append((on_two, tmp_path / name))
    assert run_distributed(fit_all, 2, runs, timeout_seconds=240) == [[1, 1], [1, 1]]
    for _, directory in runs:
        assert first_loss(directory) == pytest.approx(theirs, abs=1e-5)
        assert evaluations(directory) == pytest.approx(evaluations(alone), abs=1e-4)
    assert not tasks or len(evaluations(alone)) == 3


def evaluations(run_directory):
    rows = read_rows(run_directory / "evaluations.csv")
    return {(row["task"], row["metric"]): float(row["value"]) for row in rows}


def test_a_run_records_its_parent_and_resumes_without_it(published, prepared, tmp_path):
    parent = tmp_path / "parent"
    shutil.copytree(published, parent)
    job = job_from(parent, prepared, tmp_path / "runs")
    directory = run(job)
    digests = {path.name: file_sha256(path) for path in parent.iterdir() if path.name != "generation_config.json"}
    found = reading.find(directory, "auto")
    assert found.started_from == {
        "directory": str(parent), "sha256": digests, "added_pieces": 0, "added_rows": 0
    }  # fmt: skip
    shutil.rmtree(parent)
    longer = replace(job, trainer=replace(job.trainer, max_steps=2))
    assert run(longer) == directory
    export_checkpoint(ExportJob(run=str(directory)), longer)
    provenance = json.loads((directory / "export" / "provenance.json").read_text())
    assert provenance["step"] == 2
    assert provenance["started_from"] == found.started_from
    assert load_config(directory / "export") == job.model
    assert message_of(ValueError, run, replace(longer, resume="never")) == (
        f"start_from ({parent}): not a directory; give a model directory, such as runs/demo/latest/export"
    )


def test_a_continued_run_ends_below_its_start_on_held_out_text(undisturbed, tmp_path):
    job, directory = undisturbed
    export_checkpoint(ExportJob(run=str(directory), dir=str(tmp_path / "export")), job)
    continued = replace(
        job,
        start_from=str(tmp_path / "export"),
        run=RunConfig(name="continued", root=str(tmp_path)),
        schedule=Schedule(shuffle_block_tokens=64, phases={"continued": job.schedule.phases["continued"]}),
    )
    rate = LearningRate(shape=Shape.cosine, start_fraction=1.0, end_fraction=0.01)
    continued.schedule.phases["continued"] = replace(continued.schedule.phases["continued"], learning_rate=rate)
    assert read_record(run(continued)).objective < read_record(directory).objective


def test_the_same_command_composes_once_the_parent_is_gone(published, prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(published, "parent")
    command = ("start_from=parent", f"data.dir={prepared}", "experiment=smoke", "topology=cpu_1x1")
    job = composed("train", *command)
    assert job.model == load_config("parent")
    assert job.identity()["start_from"] == "parent"
    create(Path("runs/smoke/once"), job, "# job\n", 1)
    shutil.rmtree("parent")
    assert composed("train", *command) == job
    assert status_of("train", *command, "run.name=another") == 2


def test_added_pieces_train_from_the_mean(published, prepared, tmp_path, capsys):
    """They take padded rows, or, where there is none left, rows that are added."""
    corpus = tmp_path / "corpus"
    shutil.copytree(prepared, corpus)
    pieces = [f"<|{number}|>" for number in range(130)]
    (corpus / TOKENIZER_FILE).write_bytes(add_pieces(prepared / TOKENIZER_FILE, pieces))
    manifest = Manifest.load(corpus)
    manifest.stages["tokenizer"].files[TOKENIZER_FILE] = file_sha256(corpus / TOKENIZER_FILE)
    manifest.stages["tokenizer"].facts["vocab_size"] = 1_024 + 130
    manifest.stages["tokens"].upstream = manifest.upstream("tokens")
    manifest.save(corpus)
    job = job_from(published, corpus, tmp_path)
    assert message_of(ValueError, run, job) == (
        f"model.vocab_size (1152): smaller than the 1154 pieces of the tokenizer in {corpus}; give"
        " model.vocab_size=1280, which adds rows to the model of start_from"
    )
    directory = run(replace(job, model=replace(job.model, vocab_size=1_280)))
    record = reading.find(directory, "auto").started_from
    assert (record["added_pieces"], record["added_rows"]) == (130, 128)
    assert "started from the weights of" in capsys.readouterr().err


def llama(directory):
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))


def without_tensor(directory):
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["lm_head.weight"]
    path.write_text(json.dumps(index))


def pickled(directory):
    for path in directory.glob("*.safetensors*"):
        path.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"")


def with_only_a_json_tokenizer(directory):
    (directory / "tokenizer.model").rename(directory / "nemotron.model")
    (directory / "tokenizer.json").write_text("{}")


def with_another_tokenizer(directory):
    (directory / "tokenizer.model").write_bytes(train_tiny_tokenizer())


FAULTS = [
    (llama, "start_from (DIR): config.json: model_type ('llama'): must be 'nemotron'; this is not a Nemotron model"),
    (
        without_tensor,
        "start_from (DIR): tensor 'lm_head.weight' is missing; config.json implies one of shape [1152, 40]",
    ),
    (
        pickled,
        "start_from (DIR): pytorch_model.bin is a pickle, which can run code and is never opened; convert the"
        " weights to safetensors",
    ),
    (
        with_only_a_json_tokenizer,
        "start_from (DIR): has no tokenizer.model, the SentencePiece file that the corpus must share; put it there (a"
        " copy of nemotron.model?); tokenizer.json cannot replace it",
    ),
    (
        with_another_tokenizer,
        "data.dir (CORPUS): has another tokenizer than start_from (DIR); prepare the corpus with"
        " tokenizer.model=DIR/tokenizer.model",
    ),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_directory_that_cannot_be_used_is_refused_before_anything_starts(
    published, prepared, tmp_path, fault, message
):
    parent = tmp_path / "parent"
    shutil.copytree(published, parent)
    job = job_from(parent, prepared, tmp_path / "runs")
    fault(parent)
    expected = message.replace("DIR", str(parent)).replace("CORPUS", str(prepared))
    assert message_of(ValueError, launch, job, "# job\n") == expected
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["start_from=DIR", "model.num_layers=4"],
            "model.num_layers (4): start_from (DIR) has 2; leave it out, or choose",
        ),
        (
            ["start_from=DIR", "model=nano_1m"],
            "model.hidden_size (64): start_from (DIR) has 40; leave it out, or choose",
        ),
        (
            ["start_from=DIR", "model.head_dim=20"],
            "model.head_dim (20): start_from (DIR) has 16; leave it out, or choose",
        ),
        (
            ["start_from=DIR", "model.vocab_size=1024"],
            "model.vocab_size (1024): start_from (DIR) has 1152 rows, and all",
        ),
        (
            ["start_from=DIR", "resume=runs/x/checkpoints/step-00000001"],
            "start_from (DIR): cannot be combined with resume=runs/x/checkpoints/step-00000001, which has weights",
        ),
        (
            ["start_from=DIR/config.json"],
            "start_from (DIR/config.json): not a directory; give a model directory, such as",
        ),
        (
            ["start_from=", "model=nano_1m"],
            "start_from (''): must name a model directory; leave it out for new weights",
        ),
        (
            ["start_from=null", "model=from_directory"],
            "model (from_directory): takes its architecture from start_from;",
        ),
    ],
)
def test_what_contradicts_the_directory_is_refused_by_its_key(
    published, prepared, tmp_path, monkeypatch, capsys, overrides, message
):
    monkeypatch.chdir(tmp_path)
    given = [text.replace("DIR", str(published)) for text in overrides]
    command = command_loaders()["plan"]()
    status = run_reporting_errors("plan", command, ["experiment=smoke", f"data.dir={prepared}", *given], Interruption())
    said = capsys.readouterr().err
    assert status == 2
    assert said.startswith(f"nemotron4 plan: {message.replace('DIR', str(published))}"), said
    assert said.count("\n") == 1


def test_a_job_without_it_keeps_its_digest(prepared, tmp_path):
    """Runs of earlier versions, which had no such key, go on."""
    assert "start_from" not in smoke_job(prepared, tmp_path).identity()
