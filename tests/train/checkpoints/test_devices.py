"""Which device a save uses, and when; calls that are made for a GPU are seen on the CPU, where they do nothing."""

import threading

import checkpoint_worker as worker
import pytest
import torch
from torch.distributed.checkpoint import filesystem

from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.reading import CheckpointState
from nemotron4_train.checkpoints.writing import CheckpointWriter

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture(params=[True, False], ids=["asynchronous", "synchronous"])
def writer(request, tmp_path):
    writer = CheckpointWriter(tmp_path, keep=9, asynchronous=request.param)
    yield writer
    writer.close()


def small_model():
    model = torch.nn.Linear(8, 8)
    optimizers = [torch.optim.AdamW(model.parameters())]
    worker.train_step(model, optimizers)
    return model, optimizers


def test_nothing_is_copied_ahead_where_there_is_a_gpu(writer, tmp_path, monkeypatch):
    """Such copies do not wait, and synchronise whatever device the thread has."""

    def copy_ahead(*given, **options):
        raise AssertionError("the loader that copies ahead was chosen")

    model, optimizers = small_model()
    monkeypatch.setattr(filesystem, "_OverlappingCpuLoader", copy_ahead)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    writer.save(CheckpointState(step=1, tokens=0), model, optimizers, b"{}")
    writer.wait()
    reading.verify(reading.checkpoint_directory(tmp_path, 1))


def test_the_device_is_synchronised_before_the_thread_writes_and_is_the_threads_own(writer, monkeypatch):
    """In every save; the write begins when the copies of the state are complete."""
    calls = []

    def record(name, device):
        calls.append((name, device, threading.current_thread().name))

    monkeypatch.setattr(torch.cpu, "synchronize", lambda device: record("synchronize", device))
    monkeypatch.setattr(torch.cpu, "set_device", lambda device: record("set_device", device))
    write_data = filesystem.FileSystemWriter._write_data
    monkeypatch.setattr(
        filesystem.FileSystemWriter, "_write_data", lambda *given: record("write", None) or write_data(*given)
    )
    model, optimizers = small_model()
    for step in (1, 2):
        writer.save(CheckpointState(step=step, tokens=0), model, optimizers, b"{}")
        writer.wait()
    device = model.weight.device
    main, own = threading.current_thread().name, "checkpoint_0"
    assert calls == 2 * [("synchronize", device, main), ("set_device", device, own), ("write", None, own)]


def test_later_saves_reuse_the_buffers_and_close_releases_them(tmp_path, monkeypatch):
    model, optimizers = small_model()
    writer, places = CheckpointWriter(tmp_path, keep=9), []
    monkeypatch.setattr(writer, "_write", lambda save: places.append(save.tensors["model"]["weight"].data_ptr()))
    for step in (1, 2):
        writer.save(CheckpointState(step=step, tokens=0), model, optimizers, b"{}")
    writer.wait()
    assert places[0] == places[1] != model.weight.data_ptr()
    writer.close()
    assert not writer._stager._cached_storage_mapping
