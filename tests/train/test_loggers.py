"""The loggers of others, offline. They are extras, so tests of them are skipped where they are not installed."""

import dataclasses
import re
from importlib.util import find_spec

import pytest
from smoke import run, smoke_job

from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_train.job import LoggerConfig, TrainerConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.lightning.loggers import _spelled, make_loggers

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:torch.distributed is disabled:UserWarning"),
    # Theirs, about themselves and the libraries they use.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]


def job_of(prepared, root, max_steps, **logger):
    trainer = TrainerConfig(max_steps=max_steps, log_interval_steps=1, validation_bytes_per_source=200)
    return smoke_job(prepared, root, trainer=trainer, logger=LoggerConfig(tensorboard=False, **logger))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_without_its_package_is_refused(name, prepared, tmp_path):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ValueError) as caught:
        launch(job_of(prepared, tmp_path, 1, **{name: True}, mlflow_tracking_uri="http://localhost"), "")
    assert str(caught.value) == (
        f"logger.{name} (true): needs the {name} package; pip install 'nemotron4-train[{name}]'"
    )
    assert not list(tmp_path.iterdir())


def test_tensorboard_has_every_point_once_after_going_on(prepared, tmp_path, monkeypatch):
    """Also in a task of Slurm's that is not the first: Lightning takes its number for this process's rank."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    job = job_of(prepared, tmp_path, 2)
    job.logger.tensorboard = True
    directory = run(job)
    assert run(dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=3))) == directory
    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3]


def test_names_for_mlflow_stay_apart_in_characters_that_it_takes():
    names = ["code/c", "code/c++", "code/c#", "code/c+", "code/cplus", "code/c-plus", "code/c_sharp", "code/c.+#"]
    spelled = [_spelled(name) for name in names]
    assert spelled[1:3] == ["code/c plus plus", "code/c sharp"]
    assert all(re.fullmatch(r"[\w/. -]+", name) for name in spelled)
    assert [name.replace(" plus", "+").replace(" sharp", "#") for name in spelled] == names


def test_mlflow_without_a_place_is_refused(prepared, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError) as caught:
        launch(job_of(prepared, tmp_path, 1, mlflow=True), "")
    assert str(caught.value) == (
        "logger.mlflow_tracking_uri (null): needs a server or a database; give one, such as http://HOST:5000, or set"
        " MLFLOW_TRACKING_URI"
    )


def test_weights_and_biases_offline_keeps_one_run_a_directory(prepared, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs the wandb package")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    directories = [run(job_of(prepared, tmp_path / name, 2, wandb=True)) for name in ("first", "second")]
    assert wandb.run is None, "a run that is left open takes in the next one of this process"
    for directory in directories:
        (kept,) = (directory / "wandb").glob("offline-run-*")
        assert kept.name.endswith("-" + (directory / "wandb_run_id").read_text())
        (log,) = kept.glob("*.wandb")
        content = log.read_bytes()
        for name in (b"train/loss", b"domain_bits_per_byte/english", b"validation/overall", b"hidden_size"):
            assert name in content


def test_mlflow_goes_on_in_the_run_that_it_had(prepared, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the mlflow package")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or a database would be one more dependency
    uri = f"file:{tmp_path}/store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    job = job_of(prepared, tmp_path, 2, mlflow=True, mlflow_experiment="tests")
    directory = run(job)
    assert run(dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=3))) == directory
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert found.info.run_id == (directory / "mlflow_run_id").read_text()
    assert [point.step for point in client.get_metric_history(found.info.run_id, "train/loss")] == [1, 2, 3]
    assert found.data.params["model/hidden_size"] == "32"
    assert "source_epochs/english/books" in found.data.metrics
    job.blend = BlendConfig(distributions={"c": Distribution(weights={"code/c++": 0.5, "code/c#": 0.5})})
    (logger,) = make_loggers(job, tmp_path, 0)
    logger.log_metrics({"source_loss/code/c++": 1.0, "source_loss/code/c#": 2.0}, 1)
    data = client.get_run(logger.run_id).data
    assert data.metrics == {"source_loss/code/c plus plus": 1.0, "source_loss/code/c sharp": 2.0}
    assert data.params["blend/distributions/c/weights/code/c sharp"] == "0.5"
