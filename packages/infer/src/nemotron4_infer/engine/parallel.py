"""Tensor-parallel generation: several processes, each with a part of every layer, compute the same steps.

A rank has whole groups of key/value heads of attention and their keys and values, the output projection's columns for
them, part of the feed-forward, and part of the head's vocabulary; embedding and norms are whole. Two sums over ranks a
layer and one gathering of the logits are part of the linear operators, so a runner knows nothing of ranks.

Rank 0 schedules, samples and answers; it sends each call of its runner, as integers, to the others, which follow.
Training's plan (nemotron4_model/parallel) cannot decode: it cuts sequences, and a token cannot be cut.

Invariant: all ranks make the same calls in the same order. A fault on one rank cannot be undone on the others: it ends
a follower, and after it rank 0 refuses every call.

Source: Megatron-LM (arXiv 1909.08053 section 3). Over several GPUs this has not run.

Shapes: N rows, D hidden, F output features, V vocabulary.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from nemotron4_common.rules import require
from nemotron4_infer.engine.batch import Span, StepRunner
from nemotron4_infer.engine.build_paged import num_pages, paged_runner
from nemotron4_infer.engine.paged_attention import KERNEL_PAGE_TOKENS
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.weights.engine_weights import EngineWeights, from_transformer
from nemotron4_infer.weights.linear import LinearOperator, PlainLinear
from nemotron4_model import DType, ModelConfig, Transformer
from nemotron4_model.hugging_face import check_pretrained, load_weights
from nemotron4_model.transformer import Block

Make = Callable[[Tensor], LinearOperator]

_PATIENCE = timedelta(days=365)
"""A follower waits for the next call as long as nobody asks anything."""
_TIMEOUT = timedelta(minutes=10)
"""Within a step, and until all ranks know of each other, a rank that another does not meet gives up after this."""
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # torch 2.11's name
_TCPStore: Any = dist.TCPStore  # type: ignore[attr-defined]  # torch does not list it
_OPEN, _RUN, _CLOSE, _STOP = range(4)
_MESSAGE = 512
"""Integers of a message's first part; most steps fit."""


class SummedLinear:
    """A linear layer whose input features are spread over ranks: the sum of what each rank makes of its own."""

    def __init__(self, local: LinearOperator) -> None:
        self.local, self.num_bytes = local, local.num_bytes
        self.row_multiple, self.least_rows = local.row_multiple, local.least_rows
        self.in_features, self.out_features = local.in_features, local.out_features

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND, this rank's features, to y_NF on every rank."""
        y_NF = self.local(x_ND)
        dist.all_reduce(y_NF)
        return y_NF


class GatheredLinear:
    """A linear layer whose output features are spread over ranks, of which every rank gets all."""

    def __init__(self, local: LinearOperator) -> None:
        self.local, self.num_bytes = local, local.num_bytes
        self.row_multiple, self.least_rows = local.row_multiple, local.least_rows
        self.in_features, self.out_features = local.in_features, local.out_features * dist.get_world_size()

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF."""
        y_NF = self.local(x_ND)
        parts = y_NF.new_empty(dist.get_world_size() * len(y_NF), y_NF.shape[1])
        _all_gather(parts, y_NF.contiguous())
        return parts.view(-1, *y_NF.shape).transpose(0, 1).flatten(1)


def check_tensor(config: ModelConfig, tensor: int) -> None:
    """Raise ValueError unless every dimension that is spread divides evenly and each rank has a device."""
    for name in ("num_key_value_heads", "intermediate_size", "vocab_size"):
        size = getattr(config, name)
        require(size % tensor == 0, "engine.tensor", tensor, f"must divide model.{name} ({size}); lower it")
    devices = torch.cuda.device_count()
    rule = f"must be at most the number of GPUs ({devices}); lower it"
    require(devices == 0 or tensor <= devices, "engine.tensor", tensor, rule)


def load_shard(
    directory: str | Path, dtype: torch.dtype, device: torch.device, make: Make = PlainLinear
) -> EngineWeights:
    """This rank's weights, of which only its own slices are read; the default process group is the tensor axis."""
    config = check_pretrained(directory)
    with torch.device("meta"):
        model = Transformer(config).to(dtype)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in cast("Iterator[Block]", model.blocks):
        for module in (block.attention.qkv, block.mlp.up):
            _spread(module, mesh, 0)
        for module in (block.attention.out, block.mlp.down):
            _spread(module, mesh, 1)
    _spread(model.head, mesh, 0)
    model.to_empty(device=device)
    load_weights(model, directory)
    weights = from_transformer(model, lambda weight: make(cast("DTensor", weight).to_local()))
    blocks = [replace(block, out=SummedLinear(block.out), down=SummedLinear(block.down)) for block in weights.blocks]
    return replace(weights, blocks=blocks, head=GatheredLinear(weights.head))


def _spread(module: Any, mesh: DeviceMesh, dimension: int) -> None:
    # src_data_rank=None: every rank has the same (here, no) values, so nothing is sent.
    spread = distribute_tensor(module.weight, mesh, [Shard(dimension)], src_data_rank=None)
    module.weight = nn.Parameter(spread, requires_grad=False)


class TensorParallelRunner:
    """Rank 0's `StepRunner`: tells the others, and computes its own part."""

    def __init__(self, local: StepRunner, calls: Any = None, followers: Sequence[Any] = ()) -> None:
        """`calls` is the process group for calls, `followers` are the processes of other ranks, to end at the end."""
        self._local, self._calls, self._followers = local, calls, followers
        self.page_tokens, self.num_pages = local.page_tokens, local.num_pages
        self.max_sequence_length, self.vocab_size = local.max_sequence_length, local.vocab_size
        self.is_paged, self.equal_bits = True, local.equal_bits
        self._in_step = True

    def open(self, sequence: int, capacity: int, pages: Sequence[int], num_cached: int) -> None:
        """See `StepRunner.open`."""
        with self._tell([_OPEN, sequence, capacity, num_cached, *pages]):
            self._local.open(sequence, capacity, pages, num_cached)

    def run(self, spans: Sequence[Span]) -> list[Tensor]:
        """See `StepRunner.run`."""
        message = [_RUN]
        for span in spans:
            head = (span.sequence, span.begin, span.num_logits, int(span.is_prefill), len(span.token_ids))
            message.extend((*head, *span.token_ids))
        with self._tell(message):
            return self._local.run(spans)

    def truncate(self, sequence: int, length: int) -> None:
        """Nothing to do, as in any runner over pages."""

    def save(self, sequence: int, page_index: int, page: int) -> None:
        """Nothing to do, as in any runner over pages."""

    def release(self, pages: Sequence[int]) -> None:
        """Nothing to do, as in any runner over pages."""

    def close(self, sequence: int) -> None:
        """Forget the sequence."""
        with self._tell([_CLOSE, sequence]):
            self._local.close(sequence)

    def shut_down(self) -> None:
        """End the other ranks and the process group."""
        if self._in_step:
            _send([_STOP], self._calls)
        for process in self._followers:
            process.join(10 if self._in_step else 0)
            if process.is_alive():
                process.kill()
        dist.destroy_process_group()

    @contextmanager
    def _tell(self, message: list[int]) -> Iterator[None]:
        """Make a call on the other ranks; this rank makes it within the block."""
        if not self._in_step:
            raise RuntimeError("engine.tensor: ranks are out of step since the fault before; start again")
        self._in_step = False
        _send(message, self._calls)
        yield
        self._in_step = True


def follow(runner: StepRunner, calls: Any = None) -> None:
    """Make the calls that rank 0 makes, by the process group `calls`, until it shuts down."""
    while True:
        kind, *rest = _receive(calls)
        if kind == _STOP:
            return
        if kind == _OPEN:
            sequence, capacity, num_cached, *pages = rest
            runner.open(sequence, capacity, pages, num_cached)
        elif kind == _CLOSE:
            runner.close(rest[0])
        else:
            runner.run(list(_spans(rest)))


def _spans(numbers: list[int]) -> Iterator[Span]:
    at = 0
    while at < len(numbers):
        sequence, begin, num_logits, is_prefill, count = numbers[at : at + 5]
        at += 5 + count
        yield Span(sequence, begin, numbers[at - count : at], num_logits, bool(is_prefill))


def _send(message: list[int], calls: Any) -> None:
    first = torch.tensor([len(message), *message[: _MESSAGE - 1]], dtype=torch.int64)
    dist.broadcast(torch.cat((first, first.new_zeros(_MESSAGE - len(first)))), src=0, group=calls)
    if len(message) >= _MESSAGE:
        dist.broadcast(torch.tensor(message[_MESSAGE - 1 :], dtype=torch.int64), src=0, group=calls)


def _receive(calls: Any) -> list[int]:
    first = torch.empty(_MESSAGE, dtype=torch.int64)
    dist.broadcast(first, src=0, group=calls)
    length, *message = first.tolist()
    if length >= _MESSAGE:
        rest = torch.empty(length - _MESSAGE + 1, dtype=torch.int64)
        dist.broadcast(rest, src=0, group=calls)
        message.extend(rest.tolist())
    return message[:length]


def start(directory: str | Path, dtype: DType, config: EngineConfig) -> TensorParallelRunner:
    """Start the other ranks of engine.tensor on this machine, each on a GPU if there are any, and load all parts.

    ValueError, one line, if the directory does not contain a model or cannot be spread over so many.
    """
    check_tensor(check_pretrained(directory), config.tensor)
    store = _TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    arguments = (store.port, str(directory), dtype, config)
    context = multiprocessing.get_context("spawn")
    followers = [
        context.Process(target=_follower, args=(rank, *arguments), daemon=True) for rank in range(1, config.tensor)
    ]
    for process in followers:
        process.start()
    _await(store, followers)
    return TensorParallelRunner(*_join(0, store, str(directory), dtype, config), followers)


def _await(store: Any, followers: Sequence[Any]) -> None:
    keys = [f"started/{rank}" for rank in range(1, len(followers) + 1)]
    while not store.check(keys):
        if any(process.exitcode is not None for process in followers):
            raise RuntimeError("engine.tensor: a process of another rank ended before it began; see its message above")
        time.sleep(0.02)


def _follower(rank: int, port: int, directory: str, dtype: DType, config: EngineConfig) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what an interrupt means
    store = _TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    store.set(f"started/{rank}", "")
    follow(*_join(rank, store, directory, dtype, config))
    dist.destroy_process_group()


def _join(rank: int, store: Any, directory: str, dtype: DType, config: EngineConfig) -> tuple[StepRunner, Any]:
    """This rank's runner and the process group for calls; returns when all ranks have theirs."""
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    backend = "nccl" if on_cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=config.tensor, timeout=_TIMEOUT)
    calls = dist.new_group(backend="gloo", timeout=_PATIENCE)
    weights = load_shard(directory, dtype.torch_dtype, device)
    page_tokens = KERNEL_PAGE_TOKENS if on_cuda else 64
    pages = torch.tensor(num_pages(weights, config, page_tokens, config.tensor))
    dist.all_reduce(pages, op=dist.ReduceOp.MIN, group=calls)
    return paged_runner(weights, config, int(pages)), calls
