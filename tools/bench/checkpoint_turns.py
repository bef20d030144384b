"""What the contestants of checkpoints.py do in one turn: save, load and export, as training does and as others do.

Ours calls what `nemotron4 train`, its resume and `export` call, on the same state: a model on the job's mesh and its
AdamW after a step. Invariant: a turn's memory is the process's peak above what it held before it had that state.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import reset_peak, status_kilobytes, trim_memory
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from nemotron4_data import Corpus, StreamPhase, TokenStream
from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_data.ledger import make_ledger
from nemotron4_model import DType, ModelConfig, Transformer, initialise, load_pretrained
from nemotron4_model.hugging_face.names import to_hugging_face
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.export import ExportJob, export_checkpoint
from nemotron4_train.checkpoints.writing import CheckpointWriter
from nemotron4_train.job import DataConfig, TrainJob
from nemotron4_train.optimizers import build_optimizers
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape
from nemotron4_train.topology import TopologyConfig
from nemotron4_train.training_step import parallel_model

Optimizers = list[torch.optim.Optimizer]


def model_config(preset: str, num_layers: int) -> ModelConfig:
    """A preset with another number of layers."""
    return ModelConfig(**{**vars(ModelConfig.preset(preset)), "num_layers": num_layers})


class Turns:
    """One process. Directories below `work` belong to all contestants of a size."""

    def __init__(self, corpus: Path, work: Path, preset: str) -> None:
        self.corpus, self.work, self.preset = corpus, work, preset
        self._state: tuple[Any, Transformer, Optimizers] | None = None
        self._writer: CheckpointWriter | None = None
        self._held_before = 0

    def take_turn(self, operation: str, *work: Any) -> dict[str, Any]:
        """Do it, and return its figures: seconds, those of the processor, GB/s, and peak memory in bytes per byte."""
        answer: dict[str, Any] = getattr(self, operation)(*work)
        return answer

    def num_parameters(self, layers: int) -> dict[str, Any]:
        """Of the model."""
        return {"parameters": self._job(layers, None).model.num_parameters}

    def save(self, layers: int, mesh: list[int] | None, run: str, step: int, asynchronous: bool) -> dict[str, Any]:
        """Save a checkpoint of what a step left; the state and the writer's buffers stay for the next turn."""
        model, optimizers = self._trained(layers, mesh)
        job = self._job(layers, mesh)
        if self._writer is None:
            self._writer = CheckpointWriter(self.work / run, keep=1, asynchronous=asynchronous)
        writer = self._writer
        corpus = Corpus.open(self.corpus)
        phase = StreamPhase(num_samples=2, sequence_length=256, weights={corpus.names("train")[0]: 1.0})
        stream = TokenStream(corpus, [phase], job.seed, job.schedule.shuffle_block_tokens)
        ledger = make_ledger(stream, corpus, 0).to_json()
        described = reading.describe_model(job.model)
        state = reading.CheckpointState(step=step, tokens=0, job_digest=job.digest(), model=described)

        def act() -> dict[str, float]:
            start = time.perf_counter()
            writer.save(state, model, optimizers, ledger)
            waited = time.perf_counter() - start
            writer.wait()
            return {"waits": waited}

        return self._measured(act, _bytes_of_state(job.model), fresh=False)

    def load(self, layers: int, mesh: list[int] | None, run: str) -> dict[str, Any]:
        """Check a checkpoint and load it, as a resumed run does, into a model that has just been made."""
        self.release()
        self._begin()
        model, optimizers = self._made(layers, mesh)

        def act() -> dict[str, float]:
            start = time.perf_counter()
            found = reading.find(self.work / run, "auto")
            checked = time.perf_counter() - start
            assert found is not None
            reading.load(found.directory, model, optimizers)
            return {"checks": checked}

        figures = self._measured(act, _bytes_of_state(self._job(layers, mesh).model), fresh=False)
        self._state = (layers, mesh), model, optimizers
        return figures

    def digest(self) -> dict[str, Any]:
        """SHA-256 of all weights and moments, whole."""
        assert self._state is not None
        _, model, [optimizer] = self._state
        found = hashlib.sha256()
        for name, parameter in model.named_parameters():
            for tensor in (parameter, *(optimizer.state[parameter][kind] for kind in ("exp_avg", "exp_avg_sq"))):
                whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                found.update(name.encode() + whole.detach().numpy().tobytes())
        return {"digest": found.hexdigest()}

    def export(self, layers: int, run: str, dtype: str) -> dict[str, Any]:
        """Export the run's checkpoint over the last export."""
        self.release()
        job = self._job(layers, None)
        directory = self.work / f"export-{layers}-{dtype}"
        asked = ExportJob(run=str(self.work / run), dir=str(directory), dtype=DType[dtype])
        num_bytes = job.model.num_parameters * DType[dtype].torch_dtype.itemsize

        def act() -> dict[str, float]:
            export_checkpoint(asked, job)
            return {}

        return self._measured(act, num_bytes)

    def load_export(self, layers: int, dtype: str) -> dict[str, Any]:
        """Load it with `load_pretrained`."""
        directory = self.work / f"export-{layers}-{dtype}"
        return self._loaded(directory, lambda: load_pretrained(directory, dtype=DType[dtype].torch_dtype))

    def torch_save(self, layers: int) -> dict[str, Any]:
        """torch.save of the same state, and fsync."""
        model, optimizers = self._trained(layers, None)
        states = {"model": model.state_dict(), "optimizers": [each.state_dict() for each in optimizers]}
        path = self.work / f"{layers}.pt"

        def act() -> dict[str, float]:
            with path.open("wb") as file:
                torch.save(states, file)
                file.flush()
                os.fsync(file.fileno())
            return {}

        return self._measured(act, _bytes_of_state(model.config), fresh=False)

    def torch_load(self, layers: int) -> dict[str, Any]:
        """torch.load of that file into a model that has just been made."""
        self.release()
        self._begin()
        model, optimizers = self._made(layers, None)

        def act() -> dict[str, float]:
            states = torch.load(self.work / f"{layers}.pt", weights_only=True)
            model.load_state_dict(states["model"])
            for optimizer, state in zip(optimizers, states["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            return {}

        return self._measured(act, _bytes_of_state(model.config), fresh=False)

    def save_file(self, layers: int, dtype: str) -> dict[str, Any]:
        """safetensors' save_file of the weights in memory, in the dtype in which they are stored, and fsync."""
        model, _ = self._trained(layers, None)
        named = ((name, parameter.detach()) for name, parameter in model.named_parameters())
        pairs = (pair for name, tensor in named for pair in to_hugging_face(name, tensor, model.config))
        tensors = {name: tensor.to(DType[dtype].torch_dtype, copy=True).contiguous() for name, tensor in pairs}
        path = self.work / f"{layers}-{dtype}.safetensors"

        def act() -> dict[str, float]:
            save_file(tensors, path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            return {}

        return self._measured(act, sum(tensor.nbytes for tensor in tensors.values()))

    def load_file(self, layers: int, dtype: str) -> dict[str, Any]:
        """safetensors' load_file of our export's weights, and a copy of each: it maps the file and reads nothing."""
        directory = self.work / f"export-{layers}-{dtype}"
        path = directory / "model.safetensors"
        return self._loaded(directory, lambda: [tensor.clone() for tensor in load_file(path).values()])

    def write(self, num_bytes: int) -> dict[str, Any]:
        """As many bytes, and fsync: what the disk takes."""
        block, path = memoryview(os.urandom(1 << 24)), self.work / "bytes"

        def act() -> dict[str, float]:
            with path.open("wb", buffering=0) as file:
                for first in range(0, num_bytes, len(block)):
                    file.write(block[: num_bytes - first])
                os.fsync(file.fileno())
            return {}

        return self._measured(act, num_bytes)

    def read(self) -> dict[str, Any]:
        """The bytes that `write` wrote, which the page cache has."""
        path, block = self.work / "bytes", memoryview(bytearray(1 << 24))

        def act() -> dict[str, float]:
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass
            return {}

        return self._measured(act, path.stat().st_size)

    def release(self) -> dict[str, Any]:
        """Forget the state and the buffers."""
        if self._writer is not None:
            self._writer.close()
        self._state = self._writer = None
        return {}

    def _loaded(self, directory: Path, load: Callable[[], Any]) -> dict[str, Any]:
        self.release()

        def act() -> dict[str, float]:
            load()
            return {}

        return self._measured(act, (directory / "model.safetensors").stat().st_size)

    def _job(self, layers: int, mesh: list[int] | None) -> TrainJob:
        shard, tensor = mesh or (1, 1)
        rate = LearningRate(shape=Shape.linear, end_fraction=1.0)
        phase = Phase(tokens=512, blend="all", global_batch_size=2, sequence_length=256, learning_rate=rate)
        return TrainJob(
            model=model_config(self.preset, layers),
            data=DataConfig(dir=str(self.corpus)),
            blend=BlendConfig(distributions={"all": Distribution(weights={"english": 1.0})}),
            schedule=Schedule(phases={"main": phase}),
            topology=TopologyConfig(shard=shard, tensor=tensor),
        )

    def _made(self, layers: int, mesh: list[int] | None) -> tuple[Transformer, Optimizers]:
        job = self._job(layers, mesh)
        over: DeviceMesh | None = None
        if mesh is not None:
            over = init_device_mesh("cpu", (1, *mesh), mesh_dim_names=("replicate", "shard", "tensor"))
        model = parallel_model(job, over)
        model.to_empty(device="cpu")
        initialise(model, job.seed, job.model)
        return model, build_optimizers(model, job.optimizer)

    def _trained(self, layers: int, mesh: list[int] | None) -> tuple[Transformer, Optimizers]:
        """The state that this process holds, made if it holds another."""
        if self._state is None or self._state[0] != (layers, mesh):
            self.release()
            self._begin()
            model, optimizers = self._made(layers, mesh)
            for parameter in model.parameters():
                parameter.grad = parameter.detach() * 0.5
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self._state = (layers, mesh), model, optimizers
        return self._state[1:]

    def _begin(self) -> None:
        trim_memory()
        self._held_before = status_kilobytes("VmRSS")

    def _measured(self, act: Callable[[], dict[str, float]], num_bytes: int, fresh: bool = True) -> dict[str, Any]:
        """Figures of `act`; `fresh`: memory counts from now, not from before the state was made."""
        trim_memory()
        held_before = status_kilobytes("VmRSS") if fresh else self._held_before
        if dist.is_initialized():
            dist.barrier()
        reset_peak()
        start, processor = time.perf_counter(), time.process_time()
        more = act()
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        peak = (status_kilobytes("VmHWM") - held_before) * 1024
        speed = num_bytes / 1e9 / seconds
        return {"seconds": seconds, "cpu_seconds": processor, "speed": speed, "memory": peak / num_bytes, **more}


def _bytes_of_state(config: ModelConfig) -> int:
    """fp32 weights and AdamW's two moments."""
    return 12 * config.num_parameters
