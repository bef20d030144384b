"""Gradients over two devices, sharded and tensor parallel, against those of one.

The ranks are forked from this part's process, which therefore must not use CUDA.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from .context import Context
from .frame import Check, CheckFailedError, Figures, NotApplicableError
from .models import build, loss_and_gradients, random_tokens, require_same_gradients

_RANKS = 2
_SHAPES = {"sharded": (1, _RANKS, 1), "tensor parallel": (1, 1, _RANKS)}
_LIMIT_SECONDS = 60.0


def sharded(context: Context) -> Figures:
    """FSDP2 over two devices."""
    return _two_ranks(context, "sharded")


def tensor_parallel(context: Context) -> Figures:
    """Tensor and sequence parallel over two devices."""
    return _two_ranks(context, "tensor parallel")


def _two_ranks(context: Context, name: str) -> Figures:
    if context.on_cuda and context.machine.count < _RANKS:
        raise NotApplicableError(f"needs two GPUs, and this machine has {context.machine.count}")
    directory = context.scratch / name.replace(" ", "_")
    directory.mkdir()
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_rank, args=(context, name, rank, directory)) for rank in range(_RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(_LIMIT_SECONDS)
        process.kill()
    outcome = directory / "outcome.json"
    if not outcome.is_file():
        raise CheckFailedError("the ranks ended without an answer")
    error, figures = json.loads(outcome.read_text(encoding="utf-8"))
    if error:
        raise CheckFailedError(error, figures)
    return dict(figures)


def _rank(context: Context, name: str, rank: int, directory: Path) -> None:
    outcome: tuple[str | None, Figures]
    try:
        outcome = None, _compare(context, name, rank, directory)
    except CheckFailedError as error:
        outcome = str(error), error.figures
    except Exception as error:
        traceback.print_exc()
        outcome = f"rank {rank}: {type(error).__name__}: {error}", {}
    if rank == 0:
        (directory / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
    os._exit(0)  # the other rank may be gone, and torch would wait for it


def _compare(context: Context, name: str, rank: int, directory: Path) -> Figures:
    if context.on_cuda:
        torch.cuda.set_device(rank)
    store = dist.FileStore(str(directory / "store"), _RANKS)
    dist.init_process_group("nccl" if context.on_cuda else "gloo", store=store, rank=rank, world_size=_RANKS)
    mesh = init_device_mesh(context.device, _SHAPES[name], mesh_dim_names=("replicate", "shard", "tensor"))
    sizes, figures = context.sizes, {}
    tokens = random_tokens(sizes.slice, 2 * _RANKS, sizes.slice_tokens, context.device)
    mine = tokens.chunk(_RANKS)[rank] if name == "sharded" else tokens
    for bf16, tolerance in ((False, 1e-5), (True, 2e-2)):
        _, wanted = loss_and_gradients(build(context, sizes.slice), tokens)
        _, found = loss_and_gradients(build(context, sizes.slice, bf16=bf16, mesh=mesh), mine)
        figures["bf16" if bf16 else "fp32"] = require_same_gradients(found, wanted, tolerance)["error"]
    return figures


CHECKS = (Check(sharded, 15), Check(tensor_parallel, 15))
