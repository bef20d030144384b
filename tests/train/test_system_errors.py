"""A full disk and its like: one line with the place, the system's reason and the way out, wherever it is met.

A limit on the size of files stands for the disk: what is written beyond it fails likewise, without being root.
"""

import resource
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from smoke import smoke_job
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler, ProcessFailure

from nemotron4_train.launching.elastic import _ending
from nemotron4_train.launching.launch import launch
from nemotron4_train.lightning.loggers import make_loggers
from nemotron4_train.reporting.metrics import MetricsFile, read_rows

AGAIN = "fix that and run the same command again, which resumes from the last checkpoint"


@contextmanager
def full_disk(num_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_run_that_finds_no_room_names_the_file(prepared, tmp_path):
    with full_disk(50), pytest.raises(OSError) as caught:
        launch(smoke_job(prepared, tmp_path), "")
    assert str(caught.value) == f"{(tmp_path / 'smoke').resolve()}/{stamp(tmp_path)}/run.json: File too large; {AGAIN}"


def stamp(root):
    (directory,) = (path for path in (root / "smoke").iterdir() if path.is_dir() and not path.is_symlink())
    return directory.name


def append_rows(file, then=lambda file: None):
    for step in range(5):
        file.append({"step": step, "loss": 0.5})
    then(file)


@pytest.mark.parametrize("ending", [MetricsFile.flush, MetricsFile.close])
def test_metrics_name_their_file(tmp_path, ending):
    file = MetricsFile(tmp_path / "metrics.csv", ["step", "loss"], 0)
    with full_disk(20), pytest.raises(OSError) as caught:
        append_rows(file, ending)
    assert (caught.value.strerror, caught.value.filename) == ("File too large", str(tmp_path / "metrics.csv"))
    if ending is MetricsFile.flush:
        file.close()


def test_a_slow_file_system_holds_up_no_step(tmp_path, monkeypatch):
    path, free = tmp_path / "metrics.csv", threading.Event()
    file = MetricsFile(path, ["step", "loss"], 0)
    flush = file._file.flush
    monkeypatch.setattr(file._file, "flush", lambda: (free.wait(20), flush()))
    append_rows(file)
    assert read_rows(path) == []
    free.set()
    file.flush()
    assert [row["step"] for row in read_rows(path)] == list("01234")
    file.close()


def log_points(logger):
    for step in range(200):
        logger.log_metrics({"loss": 0.5}, step)
        logger.save()


def test_tensorboard_says_it_once(prepared, tmp_path, capfd):
    (logger,) = make_loggers(smoke_job(prepared, tmp_path), tmp_path, 0)
    with full_disk(200):
        with pytest.raises(OSError) as caught:
            log_points(logger)
        with pytest.raises(OSError):
            logger.finalize("failed")
    assert str(caught.value) == (
        f"{tmp_path}/tensorboard: File too large; make room, or turn it off with logger.tensorboard=false"
    )
    assert capfd.readouterr().err == ""


def test_what_a_rank_met_is_what_the_launch_says(tmp_path, monkeypatch):
    """Rank 0 met the system's refusal, and rank 1 then lost its connection."""
    failures = {}
    for rank, error, status in (
        (0, OSError(f"a/metrics.csv: No space left on device; {AGAIN}"), 2),
        (1, RuntimeError("Connection closed"), 1),
    ):
        file = tmp_path / str(rank)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        ErrorHandler().record_exception(error)
        failures[rank] = ProcessFailure(rank, 100 + rank, status, str(file))
    found = _ending(Path("a"), failures, None)
    assert (type(found), str(found)) == (OSError, f"a/metrics.csv: No space left on device; {AGAIN}")
    del failures[0]
    found = _ending(Path("a"), failures, None)
    assert (type(found), str(found)) == (RuntimeError, "a: rank 1 failed: RuntimeError: Connection closed")


def test_a_rank_that_refused_its_input_still_raises_that(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0"))
    ErrorHandler().record_exception(ValueError("c: does not fit"))
    found = _ending(Path("a"), {0: ProcessFailure(0, 100, 2, str(tmp_path / "0"))}, None)
    assert (type(found), str(found)) == (ValueError, "c: does not fit")
