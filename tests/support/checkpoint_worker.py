"""What processes of tests of checkpoints do; its own file so that spawned processes can import it."""

import gc
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nemotron4_model import ModelConfig, Transformer, initialise, parallelise
from nemotron4_train import optimizers as optimizers_module
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.reading import CheckpointState
from nemotron4_train.checkpoints.writing import CheckpointWriter
from nemotron4_train.job import OptimizerConfig, OptimizerKind
from nemotron4_train.optimizers import build_optimizers

CONFIG = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_sequence_length=16,
)


def environment():
    """Of a process that imports this file. glibc gives freed blocks of 1 MB back at once, lest peaks scatter."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    settings = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    return os.environ | {"PYTHONPATH": path} | settings


def python(script, *arguments):
    """What a script prints, run in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def whole(tensor):
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone()


def build(mesh):
    with torch.device("meta"):
        model = Transformer(CONFIG)
    parallelise(model, mesh)
    model.to_empty(device="cpu")
    initialise(model, 7, CONFIG)
    return model, build_optimizers(model, OptimizerConfig())


def train_step(model, optimizers):
    """A step with made-up gradients, which changes every parameter and all state."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def poll(writer):
    """What training does between steps: ranks agree whether the save in progress has ended."""
    writing = torch.tensor(int(writer.is_writing()))
    if dist.is_initialized():
        dist.all_reduce(writing)
    if not writing:
        writer.wait()


def poll_until_done(writer):
    """Poll until a save is complete or has failed."""
    while writer._in_progress is not None:
        poll(writer)


def muon_step(mesh):
    """A step of Muon: the matrices after it, by name, and how many this process orthogonalised."""
    model, _ = build(mesh)
    optimizer = build_optimizers(model, OptimizerConfig(kind=OptimizerKind.muon))[-1]
    for parameter in model.parameters():
        parameter.grad = parameter.detach() ** 2  # the same however it is sharded
    before = {id(parameter): whole(parameter) for parameter in model.parameters()}
    with mock.patch.object(optimizers_module, "orthogonalise", wraps=optimizers_module.orthogonalise) as spy:
        optimizer.step()
    stepped = {name: whole(p) for name, p in model.named_parameters() if not torch.equal(whole(p), before[id(p)])}
    return stepped, spy.call_count


def save_both_ways(rank, world_size, directory):
    """Save on a 2x2 mesh, standing still and moving on; returns the whole state that was saved."""
    mesh = init_device_mesh("cpu", (1, 2, 2), mesh_dim_names=("replicate", "shard", "tensor"))
    torch.manual_seed(rank)
    model, optimizers = build(mesh)
    train_step(model, optimizers)
    still = CheckpointWriter(directory / "still", keep=1, asynchronous=False)
    moving = CheckpointWriter(directory / "moving", keep=1)
    still.save(CheckpointState(step=1, tokens=0), model, optimizers, b"{}")
    moving.save(CheckpointState(step=1, tokens=0), model, optimizers, b"{}")
    state = {
        "model": {name: whole(p) for name, p in model.named_parameters()},
        "exp_avg": {name: whole(optimizers[0].state[p]["exp_avg"]) for name, p in model.named_parameters()},
        "rng": torch.get_rng_state(),
        "muon": muon_step(mesh),
    }
    for _ in range(3):
        train_step(model, optimizers)
        poll(moving)
    moving.close()
    return state


def draw_after_restoring(rank, world_size, directory, of_one):
    """Numbers drawn after a save, again after loading it in another state, and after loading one of one process."""
    torch.manual_seed(100 + rank)
    model, optimizers = build(init_device_mesh("cpu", (1, 2, 1), mesh_dim_names=("replicate", "shard", "tensor")))
    writer = CheckpointWriter(directory, keep=1)
    writer.save(CheckpointState(step=1, tokens=0), model, optimizers, b"{}")
    drawn = torch.rand(5)
    writer.close()
    torch.manual_seed(5)
    reading.load(reading.checkpoint_directory(directory, 1), model, optimizers)
    again = torch.rand(5)
    torch.manual_seed(5)
    reading.load(of_one, model, optimizers)
    return drawn, again, torch.rand(5)


def save_with_one_full_disk(rank, world_size, directory):
    """Save twice; the second time rank 1 cannot write. Returns the error that each rank has between steps."""
    model, optimizers = build(init_device_mesh("cpu", (1, 2, 1), mesh_dim_names=("replicate", "shard", "tensor")))
    writer = CheckpointWriter(directory, keep=1)
    writer.save(CheckpointState(step=1, tokens=0), model, optimizers, b"{}")
    writer.wait()
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    writer.save(CheckpointState(step=2, tokens=0), model, optimizers, b"{}")
    try:
        for _ in range(10_000):
            poll(writer)
            time.sleep(0.01)
    except OSError as error:
        return str(error)
    raise AssertionError("the save that could not be written was not noticed")


def verify_all(rank, world_size, directory):
    """The error that each rank has."""
    try:
        reading.verify(directory)
    except ValueError as error:
        return str(error)
    raise AssertionError("the damage was not noticed")


def fail_in_step(step, action):
    """Run `action`, in which training's optimiser step number `step` fails."""
    done = []

    def hook(optimizer, arguments, keywords):
        done.append(None)
        if len(done) == step:
            raise RuntimeError(f"step {step} failed")

    handle = register_optimizer_step_pre_hook(hook)
    try:
        return action()
    finally:
        handle.remove()


def large_model(size=2_048, layers=4):
    model = torch.nn.Sequential(*(torch.nn.Linear(size, size, bias=False) for _ in range(layers)))
    optimizers = [torch.optim.AdamW(model.parameters(), fused=True)]
    train_step(model, optimizers)
    return model, optimizers


def memory_of_saves(directory):
    """MB: of the state, the process's peak before saving, and after five saves in a row, with garbage left as it is."""
    gc.disable()
    model, optimizers = large_model()
    train_step(model, optimizers)
    before = peak_mb()
    writer = CheckpointWriter(Path(directory), keep=1)
    for step in range(5):
        writer.save(CheckpointState(step=step, tokens=0), model, optimizers, b"{}")
        train_step(model, optimizers)
    writer.close()
    state = 3 * sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    return f"{state} {before} {peak_mb()}"


def save_for_ever(directory):
    """Save step 1 whole, then begin step 2."""
    model, optimizers = large_model()
    writer = CheckpointWriter(Path(directory), keep=2)
    for step in (1, 2):
        writer.save(CheckpointState(step=step, tokens=0), model, optimizers, b"{}")
    time.sleep(600)


def save_model(pickle_path):
    """A checkpoint of a model as training makes them, without optimiser state."""
    directory, config, ledger = pickle.loads(Path(pickle_path).read_bytes())
    model = Transformer(config)
    writer = CheckpointWriter(Path(directory), keep=1, asynchronous=False)
    state = CheckpointState(step=1, tokens=0, phase="main", job_digest="", model=reading.describe_model(config))
    writer.save(state, model, [torch.optim.SGD(model.parameters())], ledger)


def memory_of_export(pickle_path):
    """Peak MB of the process after an export."""
    from nemotron4_train.checkpoints.export import export_checkpoint

    export_checkpoint(*pickle.loads(Path(pickle_path).read_bytes()))
    return peak_mb()


def peak_mb():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6
