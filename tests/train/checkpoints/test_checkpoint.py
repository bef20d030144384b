"""Checkpoints: written while training goes on, kept, read on another topology, damaged, refused."""

import dataclasses
import gc
import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import checkpoint_worker as worker
import pytest
import torch
from distributed import run_distributed
from smoke import run, smoke_job
from torch.distributed.device_mesh import init_device_mesh

from nemotron4_common.staging import file_sha256, partial_path
from nemotron4_model import Transformer
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.reading import Checkpoint, CheckpointState
from nemotron4_train.checkpoints.writing import CheckpointWriter
from nemotron4_train.job import Precision, PrecisionConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.lightning.strategy import AXES, process_group
from nemotron4_train.run_directory import read_record
from nemotron4_train.step_guard import GuardState

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
    "ignore:torch.distributed is disabled:UserWarning",
)


def with_trainer(job, **changes):
    return dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, **changes))


def names(run_directory):
    return [path.name for path in reading.list_checkpoints(run_directory)]


def contents(directory):
    """Files by name, but torch's index, which names the directory and the save, and so the manifest."""
    return {file.name: file.read_bytes() for pattern in ("*.distcp", "[!m]*.json") for file in directory.glob(pattern)}


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def small_model(size=64):
    model = torch.nn.Linear(size, size)
    optimizer = torch.optim.AdamW(model.parameters())
    worker.train_step(model, [optimizer])
    return model, [optimizer]


def test_written_while_training_goes_on_equals_written_while_it_stands_still(prepared, tmp_path, undisturbed):
    """And of the checkpoints of another cadence, the newest and the ends of phases are left."""
    job = with_trainer(smoke_job(prepared, tmp_path), async_checkpoint=False, save_interval_steps=5, keep_checkpoints=1)
    still = run(job)
    assert job.digest() == undisturbed[0].digest()
    assert names(still) == names(undisturbed[1]) == [f"step-{step:08d}" for step in (4, 8, 12)]
    for name in names(still):
        assert contents(still / "checkpoints" / name) == contents(undisturbed[1] / "checkpoints" / name)


def test_a_save_holds_the_state_of_its_step_whatever_training_does_meanwhile(tmp_path):
    model, optimizers = small_model()
    still = CheckpointWriter(tmp_path / "still", keep=1, asynchronous=False)
    moving = CheckpointWriter(tmp_path / "moving", keep=1)
    gate = threading.Event()
    moving._thread.submit(gate.wait)  # the write must not begin before training has changed everything
    still.save(CheckpointState(step=1, tokens=0), model, optimizers, b"ledger")
    moving.save(CheckpointState(step=1, tokens=0), model, optimizers, b"ledger")
    before = model.weight.detach().clone()
    torch.rand(7)
    worker.train_step(model, optimizers)
    assert not torch.equal(model.weight, before)
    assert not reading.checkpoint_directory(tmp_path / "moving", 1).exists()
    gate.set()
    moving.close()
    written, expected = (reading.checkpoint_directory(tmp_path / name, 1) for name in ("moving", "still"))
    assert contents(written) == contents(expected)


@pytest.fixture(scope="module")
def saved_by_four(tmp_path_factory):
    """Directories of the same state on a 2x2 mesh, saved standing still and moving on, and that state."""
    root = tmp_path_factory.mktemp("saved_by_four")
    state = run_distributed(worker.save_both_ways, 4, root, timeout_seconds=240)[0]
    return *(reading.checkpoint_directory(root / name, 1) for name in ("still", "moving")), state


def test_ranks_write_while_they_train_what_they_write_standing_still(saved_by_four):
    """Then one process reads it."""
    still, moving, expected = saved_by_four
    assert contents(still) == contents(moving)
    assert len(list(still.glob("*.distcp"))) == 2 * 4
    reading.verify(still)
    model, optimizers = worker.build(None)
    reading.load(still, model, optimizers)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected["model"][name]), name
        assert torch.equal(optimizers[0].state[parameter]["exp_avg"], expected["exp_avg"][name]), name
    assert torch.equal(torch.get_rng_state(), expected["rng"])


def test_muon_shares_its_work_among_ranks_and_steps_as_one_process(saved_by_four):
    stepped, calls = saved_by_four[2]["muon"]
    expected, calls_alone = worker.muon_step(None)
    assert stepped.keys() == expected.keys()
    for name, matrix in expected.items():
        torch.testing.assert_close(stepped[name], matrix, atol=1e-6, rtol=1e-5, msg=name)
    assert calls_alone == len(expected) == 4 * worker.CONFIG.num_layers
    assert calls == calls_alone / 4


def test_a_checkpoint_of_plain_tensors_opens_on_a_mesh_of_one_rank(tmp_path):
    """What one device saved in bf16 before it trained through FSDP2."""
    model, optimizers = worker.build(None)
    worker.train_step(model, optimizers)
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.save(CheckpointState(step=1, tokens=0), model, optimizers, b"{}")
    writer.close()
    job = smoke_job(tmp_path, tmp_path, precision=PrecisionConfig(compute=Precision.bf16))
    with process_group(job):
        on_mesh, its_optimizers = worker.build(init_device_mesh("cpu", (1, 1, 1), mesh_dim_names=AXES))
        reading.load(reading.checkpoint_directory(tmp_path, 1), on_mesh, its_optimizers)
        for name, parameter in model.named_parameters():
            loaded = on_mesh.get_parameter(name)
            assert torch.equal(worker.whole(loaded), parameter)
            moments = optimizers[0].state[parameter], its_optimizers[0].state[loaded]
            assert all(torch.equal(worker.whole(moments[1][key]), value) for key, value in moments[0].items())


def test_a_weight_in_the_order_of_columns_is_saved_and_loaded(tmp_path):
    """Which torch's own reader must read."""
    model, optimizers = small_model()
    model.weight.data = torch.rand(64, 64).T
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.save(CheckpointState(step=1, tokens=0), model, optimizers, b"{}")
    writer.close()
    for loaded, its_optimizers in (small_model(), (model, optimizers)):
        expected = model.weight.detach().clone()
        loaded.weight.data.zero_()
        reading.load(reading.checkpoint_directory(tmp_path, 1), loaded, its_optimizers)
        assert torch.equal(loaded.weight, expected)


def test_each_rank_gets_its_random_state_back(tmp_path):
    """A rank more than there were keeps its own."""
    torch.manual_seed(3)
    writer = CheckpointWriter(tmp_path / "one", keep=1)
    writer.save(CheckpointState(step=1, tokens=0), *worker.build(None), b"{}")
    writer.close()
    of_one = torch.rand(5)
    directory = reading.checkpoint_directory(tmp_path / "one", 1)
    by_rank = run_distributed(worker.draw_after_restoring, 2, tmp_path, directory, timeout_seconds=240)
    for drawn, again, _ in by_rank:
        assert torch.equal(drawn, again)
    torch.manual_seed(5)
    own = torch.rand(5)
    assert torch.equal(by_rank[0][2], of_one)
    assert torch.equal(by_rank[1][2], own)
    assert not torch.equal(by_rank[0][0], by_rank[1][0])


def test_a_rank_that_cannot_write_stops_all_between_steps_and_older_checkpoints_stay(tmp_path):
    errors = run_distributed(worker.save_with_one_full_disk, 2, tmp_path, timeout_seconds=240)
    directory = reading.checkpoint_directory(tmp_path, 2)
    assert errors[0] == errors[1]
    assert errors[0] == (
        f"{directory}: could not be written (File too large); older checkpoints are kept:"
        " make room and run the same command again"
    )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    reading.verify(reading.checkpoint_directory(tmp_path, 1))


def test_ranks_share_the_verifying_and_agree_on_the_damage(saved_by_four, tmp_path):
    directory = tmp_path / "step-00000001"
    shutil.copytree(saved_by_four[0], directory)
    damaged = sorted(directory.glob("*.distcp"))[2]
    flip_a_bit(damaged)
    errors = run_distributed(worker.verify_all, 2, directory, timeout_seconds=240)
    assert errors[0] == errors[1]
    assert errors[0].startswith(f"{damaged}: damaged (sha256 ")


def test_a_full_disk_keeps_the_older_checkpoint_and_says_so_between_steps(undisturbed, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(undisturbed[1], copy)
    model, optimizers = small_model(256)
    committed = []
    writer = CheckpointWriter(copy, keep=1, on_commit=committed.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # writes beyond it fail as on a full disk
    try:
        writer.save(CheckpointState(step=99, tokens=0), model, optimizers, b"")
        with pytest.raises(
            OSError, match=r"step-00000099: could not be written \(File too large\); older checkpoints are kept"
        ):
            worker.poll_until_done(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert committed == []
    assert reading.find(copy, "auto").directory.name == "step-00000012"
    assert not list((copy / "checkpoints").glob("step-00000099*"))
    writer.save(CheckpointState(step=99, tokens=0), model, optimizers, b"")
    writer.close()
    assert committed == [99]


def test_an_error_of_training_waits_for_the_save_under_way(prepared, tmp_path, undisturbed):
    """The run fails in step 5, just after the save of step 4 began; the record counts what was committed."""
    job = smoke_job(prepared, tmp_path)
    with pytest.raises(RuntimeError, match="step 5 failed"):
        worker.fail_in_step(5, lambda: run(job))
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    directory = (Path(job.run.root) / job.run.name / "latest").resolve()
    assert (read_record(directory).state, read_record(directory).step) == ("failed", 4)
    found = reading.checkpoint_directory(directory, 4)
    assert contents(found) == contents(reading.checkpoint_directory(undisturbed[1], 4))


def test_host_memory_holds_one_copy_however_often_it_is_saved(tmp_path):
    script = "import sys; import checkpoint_worker; print(checkpoint_worker.memory_of_saves(sys.argv[1]))"
    state_mb, before_mb, after_mb = map(float, worker.python(script, str(tmp_path)).split())
    assert after_mb - before_mb < 1.5 * state_mb


def test_a_kill_while_writing_leaves_the_older_checkpoint_whole(tmp_path):
    script = "import sys; import checkpoint_worker; checkpoint_worker.save_for_ever(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=worker.environment())
    second = reading.checkpoint_directory(tmp_path, 2)
    deadline = time.monotonic() + 120
    while not list(partial_path(second).glob("*.distcp")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert names(tmp_path) == ["step-00000001"]
    reading.verify(reading.checkpoint_directory(tmp_path, 1))
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.save(CheckpointState(step=3, tokens=0), *small_model(), b"")
    writer.close()
    assert names(tmp_path) == ["step-00000001", "step-00000003"]
    assert not partial_path(second).exists()


def test_what_a_run_goes_on_from_is_not_pushed_out_by_a_damaged_one(tmp_path):
    model, optimizers = small_model()
    writer = CheckpointWriter(tmp_path, keep=2)
    for step in (4, 8):
        writer.save(CheckpointState(step=step, tokens=0), model, optimizers, b"")
    writer.wait()
    flip_a_bit(next(reading.checkpoint_directory(tmp_path, 8).glob("*.distcp")))
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.save(CheckpointState(step=6, tokens=0), model, optimizers, b"")
    writer.close()
    with pytest.warns(UserWarning, match="step-00000008.*damaged"):
        assert reading.find(tmp_path, "auto").directory.name == "step-00000006"


def test_state_says_where_and_what(undisturbed):
    job, directory = undisturbed
    found = reading.find(directory, "auto")
    assert found is not None
    assert (found.step, found.tokens, found.phase) == (12, 4 * 4 * 32 + 8 * 8 * 32, "continued")
    assert found.job_digest == job.digest()
    assert found.model["head_dim"] == 8


def test_a_damaged_checkpoint_is_passed_over_and_said(prepared, tmp_path, undisturbed):
    job = with_trainer(smoke_job(prepared, tmp_path), keep_phase_ends=False)
    directory = run(with_trainer(job, max_steps=8))
    flip_a_bit(next((directory / "checkpoints" / "step-00000008").glob("*.distcp")))
    with pytest.warns(UserWarning, match=r"skipped a checkpoint: .*step-00000008.*damaged"):
        run(job)
    assert names(directory) == ["step-00000008", "step-00000012"]
    for name in names(directory):
        assert contents(directory / "checkpoints" / name) == contents(undisturbed[1] / "checkpoints" / name)


@pytest.mark.parametrize("file", ["state.json", "ledger.json", "manifest.json"])
def test_so_is_one_whose_small_files_are_damaged(tmp_path, undisturbed, file):
    shutil.copytree(undisturbed[1], tmp_path / "run")
    damaged = reading.checkpoint_directory(tmp_path / "run", 12) / file
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert reading.peek(tmp_path / "run", "auto").directory.name == "step-00000008"
    with pytest.warns(UserWarning, match=rf"skipped a checkpoint: .*step-00000012/{file}: damaged"):
        assert reading.find(tmp_path / "run", "auto").directory.name == "step-00000008"


def test_state_json_is_what_older_versions_write_and_read(tmp_path):
    told = {"step": 4, "tokens": 256, "phase": "main", "job_digest": "d", "model": {"num_layers": 2}}
    guard = {"phase": "main", "losses": [2.5], "grad_norms": [0.5], "num_skipped": 1, "num_skipped_in_a_row": 0}
    writer = CheckpointWriter(tmp_path, keep=1, asynchronous=False)
    writer.save(CheckpointState(**told, guard=GuardState(**guard)), *small_model(), b"{}")
    writer.close()
    directory = reading.checkpoint_directory(tmp_path, 4)
    assert (directory / "state.json").read_text() == json.dumps(told | {"guard": guard}, indent=1) + "\n"
    assert Checkpoint.open(directory) == Checkpoint(directory=directory, **told, guard=GuardState(**guard))
    (directory / "state.json").write_text('{"step": 4, "tokens": 256, "ranks": 2}')  # of the first versions
    digests = {name: file_sha256(directory / name) for name in ("state.json", "ledger.json")}
    (directory / "manifest.json").write_text(json.dumps({"sha256": digests}))
    assert Checkpoint.open(directory) == Checkpoint(directory=directory, step=4, tokens=256)


def test_another_model_is_refused_before_a_worker_starts(prepared, tmp_path, undisturbed):
    job, directory = undisturbed
    path = reading.checkpoint_directory(directory, 8)
    other = dataclasses.replace(job.model, intermediate_size=96)
    with pytest.raises(ValueError) as caught:
        launch(smoke_job(prepared, tmp_path, model=other, resume=str(path)), "")
    assert str(caught.value) == (
        f"model.intermediate_size (96): {path} was trained with 64; choose that model, or another checkpoint"
    )
    assert not (tmp_path / "smoke").exists()
    longer = dataclasses.replace(job.model, max_sequence_length=128, init_std=0.5, head_dim=8)
    launch(smoke_job(prepared, tmp_path, model=longer, resume=str(path)), "")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hidden_size": 64}, "Size mismatch|size"),
        ({"num_layers": 3}, "Missing key"),
        ({"num_layers": 1}, "has no blocks.1"),
    ],
)
def test_the_tensors_themselves_are_checked_too(undisturbed, change, why):
    job, directory = undisturbed
    model = Transformer(dataclasses.replace(job.model, **change))
    path = reading.checkpoint_directory(directory, 12)
    with pytest.raises(ValueError, match=rf"^{path}: does not fit this model .*\(.*({why})"):
        reading.load(path, model, [torch.optim.AdamW(model.parameters())])
