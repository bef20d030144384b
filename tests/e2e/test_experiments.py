"""Every shipped experiment trains through all of its phases at tiny size; model, topology and schedule are swapped."""

from pathlib import Path

import pytest
import torch
import yaml
from smoke import VOCAB_SIZE, prepare_tiny
from training_process import metric_rows
from verb import nemotron4

from nemotron4_config.main import main
from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained
from nemotron4_train.run_directory import read_record

CONF = Path(__file__).parents[2] / "conf"
NOT_FOR_TRAIN = {"planner_validation"}
EXPERIMENTS = sorted({path.stem for path in (CONF / "experiment").glob("*.yaml")} - NOT_FOR_TRAIN)
TINY = (
    f"model.vocab_size={VOCAB_SIZE}", "model.hidden_size=32", "model.intermediate_size=64", "model.num_layers=2",
    "model.num_attention_heads=4", "model.num_key_value_heads=2", "model.head_dim=null", "blend.max_epochs=1000",
    "topology=cpu_1x1", "topology.micro_batch_size=2", "launcher.num_threads=1", "logger=csv",
    "schedule.shuffle_block_tokens=64", "optimizer.lr=1.0e-2", "optimizer.head_lr=null", "afterwards=[]",
    "trainer.validation_bytes_per_source=200", "topology.compile=false",
)  # fmt: skip
STEPS_PER_PHASE, SEQUENCE_LENGTH = 2, 32

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
    "ignore:torch.distributed is disabled:UserWarning",
)


def composed(experiment, capsys):
    assert main(["train", f"experiment={experiment}", "--cfg", "job"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A tiny corpus with a source for whatever a shipped blend draws from."""
    sources = {"english/any", "multilingual/de", "multilingual/el", "code/any"}
    for path in (CONF / "blend").glob("*.yaml"):
        for distribution in yaml.safe_load(path.read_text(encoding="utf-8"))["distributions"].values():
            sources |= {name for name in distribution["weights"] if "/" in name}
    return prepare_tiny(tmp_path_factory.mktemp("corpus"), sorted(sources))


@pytest.fixture(scope="module")
def parent(corpus, tmp_path_factory):
    """A model directory of the tiny size, with the corpus's tokenizer."""
    config = ModelConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, 1, config)
    directory = tmp_path_factory.mktemp("parent") / "export"
    save_pretrained(model, directory, dtype=torch.float32, tokenizer_model=corpus / "tokenizer/tokenizer.model")
    return directory


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_shipped_experiment_trains(experiment, corpus, parent, tmp_path, monkeypatch, capsys):
    job = composed(experiment, capsys)
    phases = job["schedule"]["phases"]
    smallest = min(phase["global_batch_size"] for phase in phases.values())
    overrides, batches = [], []
    for name, phase in phases.items():
        batches.append(2 * round(phase["global_batch_size"] / smallest))
        tokens = STEPS_PER_PHASE * batches[-1] * SEQUENCE_LENGTH
        tiny = {"tokens": tokens, "global_batch_size": batches[-1], "sequence_length": SEQUENCE_LENGTH}
        overrides += [f"schedule.phases.{name}.{key}={value}" for key, value in tiny.items()]
        overrides += [f"schedule.phases.{name}.topology=null"] if phase["topology"] else []
    overrides += [f"start_from={parent}"] if job["start_from"] else []
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"experiment={experiment}", *TINY, *overrides, f"data.dir={corpus}"]) == 0, (
        capsys.readouterr()
    )
    run = tmp_path / "runs" / job["run"]["name"] / "latest"
    rows = metric_rows(run)
    assert [row["phase"] for row in rows] == [name for name in phases for _ in range(STEPS_PER_PHASE)]
    assert [int(row["global_batch_size"]) for row in rows] == [size for size in batches for _ in range(STEPS_PER_PHASE)]
    assert read_record(run).state == "complete"
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


@pytest.mark.parametrize(
    ("model", "topology", "schedule", "hidden_size", "shape", "batch"),
    [("nano_1m", "cpu_2x1", "smoke", 64, (1, 2, 1), "4"), ("nano_3m", "cpu_1x2", "demo", 128, (1, 1, 2), "8")],
)
def test_model_topology_and_schedule_are_swapped(workspace, model, topology, schedule, hidden_size, shape, batch):
    nemotron4(
        "train", f"model={model}", f"topology={topology}", f"schedule={schedule}", f"run.name={model}", "logger=csv",
        "data.dir=data/tiny", "model.vocab_size=1024", "trainer.max_steps=2", "trainer.validation_bytes_per_source=200",
        "blend.max_epochs=1000", cwd=workspace,
    )  # fmt: skip
    run = workspace / "runs" / model / "latest"
    job = yaml.safe_load((run / "job.yaml").read_text())
    assert job["model"]["hidden_size"] == hidden_size
    assert tuple(job["topology"][axis] for axis in ("replicate", "shard", "tensor")) == shape
    assert [row["global_batch_size"] for row in metric_rows(run)] == [batch, batch]
    assert len(list((run / "checkpoints" / "step-00000002").glob("*.distcp"))) == 2 * 2
