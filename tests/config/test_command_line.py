"""The command line in process: composition, refusals in one line, help without heavy imports."""

import errno
import subprocess
import sys

import pytest
from hydra.errors import HydraException

from nemotron4_config import load_job, render_job
from nemotron4_config.errors import explain
from nemotron4_config.main import main


def refused(capsys, *arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.strip()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.dirr=3",
            "nemotron4 train: data.dirr: unknown key; data has: dir, num_workers, mask_documents, verify",
        ),
        ("optimizer.lr=abc", "nemotron4 train: optimizer.lr (abc): must be a number"),
        ("optimizer.lr=-1", "nemotron4 train: optimizer.lr (-1.0): must be greater than 0"),
        (
            "+optimizer.foo=3",
            "nemotron4 train: optimizer.foo: unknown key; optimizer has: kind, lr, embedding_lr, head_lr, beta1,"
            " beta2, epsilon, weight_decay, clip_norm, muon_lr, muon_momentum",
        ),
        (
            "+schedule.phases.main.foo=3",
            "nemotron4 train: schedule.phases.main.foo: unknown key; schedule.phases.main has: tokens, blend,"
            " global_batch_size, sequence_length, learning_rate, topology",
        ),
        ("logger=csw", "nemotron4 train: logger=csw: no such option; choose one of: csv, mlflow, tensorboard, wandb"),
        (
            "data.dir=nowhere",
            "nemotron4 train: data.dir (nowhere): no such directory; make it with `nemotron4 prepare`",
        ),
    ],
)
def test_a_mistake_is_one_line(capsys, tmp_path, monkeypatch, override, message):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "train", "experiment=smoke", override) == message
    assert list(tmp_path.iterdir()) == []


def test_a_required_key(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "export") == "nemotron4 export: run: required; give it as run=VALUE"


def test_an_unknown_verb(capsys):
    assert main(["trane"]) == 2
    assert capsys.readouterr().err.startswith(
        "nemotron4: 'trane' is not a verb; choose one of: cancel, data adopt, data verify, eval, eval report, export"
    )


def test_a_verb_of_two_words(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "verify", "--cfg", "job"]) == 0
    assert capsys.readouterr().out == "data:\n  dir: data/sample\nledger: null\nrun: null\nmodel_dir: null\n"
    message = "nemotron4 data verify: ledger (a) and run (b): name two ledgers; give one of them"
    assert refused(capsys, "data", "verify", "ledger=a", "run=b") == message
    assert main(["data"]) == 2
    assert "'data' is not a verb" in capsys.readouterr().err


def test_help_lists_every_verb_without_hydra_or_torch():
    code = (
        "import sys; from nemotron4_config.main import main; main(['--help']);"
        " sys.exit(bool({'torch', 'hydra', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for verb in ("data verify", "eval", "export", "generate", "plan", "prepare", "report", "train"):
        assert f"\n  {verb} " in done.stdout


def test_composing_and_help_of_a_verb_import_no_torch(tmp_path):
    code = (
        "import sys; from nemotron4_config.main import main;"
        " main(['train', '--help']); main(['train', '--cfg', 'job']);"
        " sys.exit(bool({'torch', 'lightning', 'matplotlib', 'optuna'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, timeout=60, check=True)


def test_cfg_job_prints_the_composed_job_without_running_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "experiment=smoke", "--cfg", "job"]) == 0
    assert "  name: smoke\n" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_job_file_reads_back_as_the_job(tmp_path):
    from nemotron4_model import DType
    from nemotron4_train.checkpoints.export import ExportJob

    job = ExportJob(run="runs/a", dtype=DType.bf16)
    path = tmp_path / "job.yaml"
    path.write_text(render_job(job))
    assert load_job(path, ExportJob) == job
    path.write_text("run: a\nspeed: 3\n")
    with pytest.raises(ValueError, match=r"job.yaml: not a ExportJob job file"):
        load_job(path, ExportJob)


def test_an_optional_sweeper_that_is_absent_says_how_to_get_it():
    error = HydraException("Could not find 'hydra/sweeper/optuna'\n\nAvailable options in 'hydra/sweeper':\n\tbasic")
    assert explain(error) == "hydra/sweeper=optuna: not installed; pip install 'nemotron4-config[optuna]'"


def test_a_missing_file_is_named():
    assert explain(FileNotFoundError(2, "No such file or directory", "a/b")) == "a/b: No such file or directory"
    full = "No space left on device: make room (`df` shows which disk is full), then run the same command again"
    assert explain(OSError(errno.ENOSPC, "No space left on device", "a/b")) == f"a/b: {full}"
    assert explain(OSError(errno.ENOSPC, "No space left on device")) == full
    assert explain(OSError(errno.EINVAL, "Invalid argument", "a/b")) == (
        "a/b: Invalid argument: its file system cannot do this: choose a place on another one"
    )
    assert explain(OSError("corpus=debian: no network")) == "corpus=debian: no network"
