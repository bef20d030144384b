"""Checkpoints: saving, loading, resharding, exporting."""

from collections.abc import Callable
from functools import partial

from benchmark import Area, Benchmark, Result, Row


def _each_size(say: Callable[[Result], str], result: Result) -> str:
    """What is said of each size, with its parameters."""
    return "; ".join(f"{size['parameters'] / 1e6:.3g}M: {say(size)}" for size in result["sizes"])


def _speed(table: str, contestant: str, size: Result) -> str:
    found = size[table][contestant]
    return f"{found['gigabytes_per_second']:.3g} GB/s ({found['seconds']:.2f} s)"


def _speeds(table: str, contestants: tuple[str, ...], size: Result) -> str:
    return ", ".join(f"{size[table][each]['gigabytes_per_second']:.3g} GB/s ({each})" for each in contestants)


def _memory(table: str, contestants: tuple[str, ...], size: Result) -> str:
    return ", ".join(f"{size[table][each]['memory_per_byte']:.2f} ({each})" for each in contestants)


def _speed_row(what: str, table: str, ours: str, peers: tuple[str, ...]) -> Row:
    return Row(
        what=what,
        benchmark="checkpoints",
        value=partial(_each_size, partial(_speed, table, ours)),
        peer=partial(_each_size, partial(_speeds, table, peers)),
    )


def _memory_row(what: str, table: str, ours: tuple[str, ...], peers: tuple[str, ...] = ()) -> Row:
    return Row(
        what=what,
        benchmark="checkpoints",
        value=partial(_each_size, partial(_memory, table, ours)),
        peer=partial(_each_size, partial(_memory, table, peers)) if peers else None,
    )


def _waits(size: Result) -> str:
    waiting, standing = size["save"]["async"], size["save"]["not async"]
    return f"{waiting['waits']:.2f} s ({standing['waits']:.2f} s with `trainer.async_checkpoint=false`)"


_RESHARDED = ("1 to 2 x 1", "1 to 1 x 2", "2 x 1 to 1", "1 x 2 to 1")
_ROWS = (
    _speed_row("save, until it is on disk", "save", "async", ("not async", "torch.save", "plain write")),
    Row("save: training waits", "checkpoints", partial(_each_size, _waits)),
    _memory_row("save: bytes of memory a byte of state", "save", ("async", "not async"), ("torch.save",)),
    _speed_row("load, digests checked", "load", "ours", ("torch.load", "plain read")),
    _memory_row("load: bytes of memory a byte of state", "load", ("ours",), ("torch.load",)),
    Row(
        what="load on other ranks (shard x tensor)",
        benchmark="checkpoints",
        value=partial(_each_size, partial(_speeds, "reshard", _RESHARDED)),
        peer=partial(_each_size, partial(_speeds, "reshard", ("1 to 1",))),
    ),
    _memory_row("the same: bytes of memory of both ranks", "reshard", _RESHARDED[:2], ("1 to 1",)),
    _speed_row("export, fp32", "export fp32", "ours", ("safetensors",)),
    _speed_row("export, bf16", "export bf16", "ours", ("safetensors",)),
    _memory_row("export, fp32: bytes of memory a byte written", "export fp32", ("ours",)),
    _speed_row("load an export, fp32", "load export fp32", "ours", ("safetensors",)),
    _speed_row("load an export, bf16", "load export bf16", "ours", ("safetensors",)),
    _memory_row("the same, fp32: bytes of memory a byte", "load export fp32", ("ours",), ("safetensors",)),
)

AREA = Area(
    title="Checkpoints",
    benchmarks=(
        Benchmark(
            "checkpoints",
            arguments=("--corpus", "{corpus}", "--layers", "8", "--rounds", "3"),
            toy=("--corpus", "{corpus}", "--preset", "nano_1m", "--layers", "2", "--rounds", "1"),
            minutes=1.4,
        ),
    ),
    rows=_ROWS,
    text="""\
A checkpoint of the 30M model is saved, loaded and exported by the functions that `train`, a resumed run and `export`
use. The state is the fp32 weights and AdamW's two moments; GB/s of an export are those of its weights. Each process has
one thread. Figures are medians of three rounds after one that is not counted. All that is written is synced, by the
others too, so the disk decides: `plain write` is its own speed. What is read is in the page cache. Ours computes a
SHA-256 of each file when it saves, and checks those of the files that it loads or exports from; the others do neither.
Memory is the process's peak with the state that it saves or loads; files that it has mapped count. Two ranks talk over
gloo on this machine; weights and moments are equal to the bit after each way there and back, or there is no result.""",
)
