"""What a search found, as text and for plan.json: a table, a line for each tensor size, and overrides to paste."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

from rich.console import Console
from rich.table import Table

from nemotron4_train.estimates.memory import KINDS
from nemotron4_train.job import Precision
from nemotron4_train.plan.search import Found, Question, Search, precisions
from nemotron4_train.topology import TopologyConfig

_ROWS = 10


def print_search(console: Console, search: Search) -> None:
    """The fastest layouts, why other tensor sizes are slower or do not fit, and the best as overrides."""
    question = search.question
    if search.ranked:
        console.print(_table(search))
    for line in lines(search):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for precision in _by_time(search):
        found = search.best(precision=precision)
        if found is not None:
            console.print(f"\nthe fastest in {precision.value}, to paste:", highlight=False)
            console.print(" ".join(overrides(question, found)), soft_wrap=True, highlight=False, markup=False)


def _by_time(search: Search) -> list[Precision]:
    return list(dict.fromkeys(found.precision for found in search.ranked))


def search_json(search: Search) -> list[dict[str, Any]]:
    """The layouts of the table and of the lines below it, those that fit first: plan.json's `search`."""
    shown = rows(search)
    for kind in _kinds(search):
        for found in (search.best(*kind), search.nearest_too_large(*kind)):
            shown += [found] if found is not None and found not in shown else []
    shown.sort(key=lambda found: (_over(search, found) > 0, found.rank))
    return [_as_json(search, found) for found in shown]


def _as_json(search: Search, found: Found) -> dict[str, Any]:
    mesh, needed = found.topology, found.memory
    batch, length = next(iter(search.question.steps))
    kinds = {kind: getattr(needed, kind) for kind in (*KINDS, "total")}
    return {
        "gpus": search.question.num_devices,
        "global_batch_sequences": batch,
        "sequence_tokens": length,
        "replicate": mesh.replicate,
        "shard": mesh.shard,
        "tensor": mesh.tensor,
        "micro_batch_sequences": mesh.micro_batch_size,
        "recompute": mesh.recompute.value,
        "reshard_after_forward": mesh.reshard_after_forward,
        "reduce_each_micro_batch": mesh.reduce_each_micro_batch,
        "compile": mesh.compile,
        "precision": found.precision.value,
        "step_seconds": found.step.total_seconds,
        "days": found.seconds / 86_400,
        "mfu": found.mfu,
        "memory_bytes": kinds,
        "bytes_over": max(_over(search, found), 0),
        "overrides": overrides(search.question, found),
    }


def rows(search: Search) -> list[Found]:
    """The layouts of the table: of each way to compute, the best mesh; at least half of them in another precision."""
    best: dict[tuple[object, ...], Found] = {}
    for found in search.ranked:
        mesh = found.topology
        best.setdefault((found.precision, mesh.tensor, mesh.micro_batch_size, mesh.recompute), found)
    of_each = [[found for found in best.values() if found.precision is precision] for precision in _by_time(search)]
    shown = [found for of_one in of_each[:-1] for found in of_one[: _ROWS // 2]]
    return shown + [found for of_one in of_each[-1:] for found in of_one[: _ROWS - len(shown)]]


def _table(search: Search) -> Table:
    question = search.question
    batch, length = next(iter(question.steps))
    title = f"Layouts of {question.num_devices:,} x {question.machine.name}, {batch:,} sequences of {length:,}"
    table = Table("step", "MFU", "days", "replicate x shard x tensor", "micro-batch", title=title)
    for name in ("recompute", "reshard", "reduce", "precision", "memory"):
        table.add_column(name)
    previous = None
    for found in rows(search):
        if previous not in (None, found.precision):
            table.add_section()
        previous, mesh = found.precision, found.topology
        table.add_row(
            f"{_digits(found.step.total_seconds)} s",
            f"{found.mfu:.1%}",
            _digits(found.seconds / 86_400),
            f"{mesh.replicate:,} x {mesh.shard:,} x {mesh.tensor}",
            f"{mesh.micro_batch_size}",
            mesh.recompute.value,
            str(mesh.reshard_after_forward and mesh.shard > 1).lower(),
            "each" if mesh.reduce_each_micro_batch else "once",
            found.precision.value,
            f"{found.memory.total / 1e9:.1f} GB",
        )
    names = list(question.phases)
    fit, num = len(search.ranked), len(search.ranked) + len(search.too_large)
    table.caption = (
        f"{fit:,} of {num:,} layouts fit in {question.machine.memory_gigabytes:g} GB; of each micro-batch and"
        " recompute, the fastest mesh\nMFU (full attention), of the bf16 peak; days of "
        + " to ".join(dict.fromkeys((names[0], names[-1])))
    )
    return table


def lines(search: Search) -> list[str]:
    """A line for each tensor size and precision: how much slower, and why; what does not fit, and why."""
    said = (
        []
        if search.ranked
        else [f"no layout fits in {search.question.machine.memory_bytes / 1e9:.1f} GB; the smallest:"]
    )
    for tensor, precision in _kinds(search):
        name = f"tensor {tensor}, {precision.value}"
        best, too_large = search.best(tensor, precision), search.nearest_too_large(tensor, precision)
        if best is not None:
            said.append(f"{name}: {_against(search, best)}")
        if too_large is not None:
            faster = "too large" if best is None else "faster, but too large"
            said.append(f"{name}, {faster}: {_too_large(search, too_large)}")
    return said + [f"tensor {_listed(sizes)}: {rule}" for rule, sizes in search.refused.items()]


def _kinds(search: Search) -> list[tuple[int, Precision]]:
    """Every tensor size that has layouts with every precision, the fastest precision first."""
    sizes = sorted({found.topology.tensor for found in (*search.ranked, *search.too_large)})
    order = list(dict.fromkeys(found.precision for found in (*search.ranked, *search.too_large)))
    of_size = {tensor: precisions(search.question, tensor) for tensor in sizes}
    return [(tensor, precision) for precision in order for tensor in sizes if precision in of_size[tensor]]


def _against(search: Search, found: Found) -> str:
    """A layout's time beside the fastest of the same precision, or that beside the fastest of all; and what differs."""
    fastest, of_same = search.best(), search.best(precision=found.precision)
    assert fastest is not None
    assert of_same is not None
    took = f"{_digits(found.step.total_seconds)} s"
    if found is fastest:
        return f"{took}, the fastest"
    other = fastest if found is of_same else of_same
    more = {part: seconds - other.step.seconds[part] for part, seconds in found.step.seconds.items()}
    largest = sorted(more, key=lambda part: -more[part])[:2]
    parts = [f"{part} +{_digits(more[part])} s" for part in largest if more[part] > 0.1 * sum(map(abs, more.values()))]
    because = f": {', '.join(parts)}" if parts else ""
    more_than = f" more than in {other.precision.value}" if found is of_same else " more"
    return f"{took}, {found.seconds / other.seconds - 1:.1%}{more_than}{because}"


def _too_large(search: Search, found: Found) -> str:
    mesh, needed = found.topology, found.memory
    largest = sorted(KINDS, key=lambda name: -getattr(needed, name))[:2]
    kinds = ", ".join(f"{kind} {getattr(needed, kind) / 1e9:.1f}" for kind in largest)
    gathered = ", reshard false" if mesh.shard > 1 and not mesh.reshard_after_forward else ""
    gathered += ", reduce each" if mesh.reduce_each_micro_batch else ""
    return (
        f"{_digits(found.step.total_seconds)} s with {mesh.replicate:,} x {mesh.shard:,} x {mesh.tensor}, micro-batch"
        f" {mesh.micro_batch_size}, recompute {mesh.recompute.value}{gathered}: {needed.total / 1e9:.1f} GB,"
        f" {_over(search, found) / 1e9:.1f} over; of it {kinds}"
    )


def _over(search: Search, found: Found) -> int:
    return found.memory.total - search.question.machine.memory_bytes


def _digits(number: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{number:,.{max(2 - math.floor(math.log10(number)), 0)}f}"


def _listed(sizes: list[int]) -> str:
    shown = ", ".join(map(str, sizes[:4]))
    return shown if len(sizes) <= 4 else f"{shown} and {len(sizes) - 4} more"


def overrides(question: Question, found: Found) -> list[str]:
    """What turns the job into one of this layout: words of a command line, quoted for a shell where they need it."""
    job = question.job
    words = []
    for name, phase in question.phases.items():
        if phase.topology is None:
            words += [f"topology.{key}={value}" for key, value in _changes(job.topology, found.topology).items()]
        else:
            changes = _changes(phase.topology, found.topology)
            within = ",".join(f"{key}:{value}" for key, value in changes.items())
            words.append(f"schedule.phases.{name}.topology={{{within}}}")
        if phase.global_batch_size != job.schedule.phases[name].global_batch_size:
            words.append(f"schedule.phases.{name}.global_batch_size={phase.global_batch_size}")
    return [*map(shlex.quote, dict.fromkeys(words)), f"precision.compute={found.precision.value}"]


def _changes(old: TopologyConfig, new: TopologyConfig) -> dict[str, str]:
    mesh = ("replicate", "shard", "tensor", "micro_batch_size", "recompute", "reshard_after_forward", "compile")
    others = ("reduce_each_micro_batch", "num_nodes", "device", "machine", "peak_teraflops")
    keys = [*mesh, *(key for key in others if getattr(old, key) != getattr(new, key))]
    return {key: _word(getattr(new, key)) for key in keys}


def _word(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(getattr(value, "value", value))
