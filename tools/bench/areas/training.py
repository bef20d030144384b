"""Training: a step, and the whole loop."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmark import Area, Benchmark, Result, Row

from areas.panels import INK, PALETTE, panels

_MODELS = ("nano_1m", "nano_10m", "nano_30m")
_PRECISIONS = ("fp32", "bf16")
_PEERS = ("transformers", "litgpt")
_KEPT = ", memory kept"
_COLOURS = {
    "ours": PALETTE[0],
    "ours, compiled": "#8fb8e0",
    "transformers": PALETTE[1],
    "transformers, memory kept": "#eeb98a",
    "litgpt": PALETTE[2],
    "litgpt, memory kept": "#9ccda7",
}
_LOOP_GOAL = 1.05


def _contestants(result: Result, model: str, precision: str) -> Mapping[str, Any]:
    contestants: Mapping[str, Any] = result["sizes"][model][precision]["contestants"]
    return contestants


def _speed(model: str, precision: str) -> Callable[[Result], str]:
    def value(result: Result) -> str:
        ours = _contestants(result, model, precision)["ours"]
        return f"{ours['tokens_per_second']:,.0f} tokens/s, {ours['share_of_gemm_peak']:.0%} of the peak"

    return value


def _speed_of_peers(model: str, precision: str) -> Callable[[Result], str]:
    def value(result: Result) -> str:
        found = _contestants(result, model, precision)
        return "; ".join(_beside(found, peer) for peer in _PEERS if peer in found)

    return value


def _beside(found: Mapping[str, Any], peer: str) -> str:
    ratios = found["ours"]["times_as_fast_as"]
    kept = f", {ratios[peer + _KEPT]['ratio']:.2f} if it keeps its memory" if peer + _KEPT in ratios else ""
    return f"{found[peer]['tokens_per_second']:,.0f} ({peer}: ours is {_ratio(ratios[peer])} times as fast{kept})"


def _ratio(figure: Mapping[str, Any]) -> str:
    low, high = figure["quartiles"]
    return f"{figure['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def _memory(result: Result, who: str) -> str:
    return ", ".join(
        f"{_contestants(result, model, precision)[who]['peak_megabytes']:,}"
        for model in _MODELS
        for precision in _PRECISIONS
    )


def _memory_of_peers(result: Result) -> str:
    present = _contestants(result, _MODELS[0], _PRECISIONS[0])
    return "; ".join(f"{_memory(result, peer)} ({peer})" for peer in _PEERS if peer in present)


def _compiled(precision: str) -> Callable[[Result], str]:
    def value(result: Result) -> str:
        found = _contestants(result, "nano_10m", precision)["ours, compiled"]
        ratio = _ratio(found["times_as_fast_as"]["ours"])
        return f"{found['tokens_per_second']:,.0f} tokens/s, {ratio} times as fast as uncompiled"

    return value


def _loop(result: Result) -> str:
    found = result["result"]
    rounds = found["loop_over_bare_by_round"]
    more = f"{found['overhead_milliseconds_per_step']:g} ms a step"
    return f"{found['loop_over_bare']:.3f} ({rounds[0]:.3f} to {rounds[-1]:.3f}), {more}"


def _loop_of_peers(result: Result) -> str:
    speed = result["result"]["tokens_per_second"]["transformers"]
    ratio = _ratio(result["result"]["times_as_fast_as_transformers"]["loop"])
    return f"{speed:,.0f} tokens/s (transformers in a plain loop: our whole loop is {ratio} times as fast)"


def _onednn(kind: str) -> Callable[[Result], str]:
    def value(result: Result) -> str:
        ratios = [size[kind] for size in result["sizes"].values() if size[f"{kind}_uses_onednn"]]
        if not ratios:
            raise LookupError("a size at which oneDNN is used")
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} sizes"
        return f"{statistics.median(ratios):.2f} times as fast ({spread})"

    return value


def _draw(results: Mapping[str, Result]) -> Any:
    """Bars of tokens/s by contestant, with quartiles: a panel a size, a group a format."""
    sizes = results["model_step"]["sizes"]
    figure, axes = panels(1, len(sizes), width=4.2, height=3.5)
    for axis, (model, by_precision) in zip(axes, sizes.items(), strict=True):
        for group, found in enumerate(by_precision.values()):
            _draw_group(axis, group, found["contestants"])
        axis.set_xticks(range(len(by_precision)), by_precision)
        axis.tick_params(axis="x", length=0, labelsize=9)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_title(model, fontsize=10, color=INK, loc="left")
    axes[0].set_ylabel("tokens/s", fontsize=9, color=INK)
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= {bar.get_label(): bar for bar in axis.containers if bar.get_label() in _COLOURS}
    present = [name for name in _COLOURS if name in handles]
    figure.legend(
        [handles[name] for name in present], present, loc="outside lower center", ncols=6, fontsize=8.5, frameon=False
    )
    return figure


def _draw_group(axis: Any, group: int, contestants: Mapping[str, Any]) -> None:
    names = [name for name in _COLOURS if name in contestants]
    width = 0.84 / len(names)
    for index, name in enumerate(names):
        found = contestants[name]
        speed, (low, high) = found["tokens_per_second"], found["tokens_per_second_quartiles"]
        x = group + (index - (len(names) - 1) / 2) * width
        errors = [[max(0.0, speed - low)], [max(0.0, high - speed)]]
        style = {"elinewidth": 0.9, "ecolor": "#444444", "capsize": 2}
        axis.bar(x, speed, width * 0.92, color=_COLOURS[name], label=name, yerr=errors, error_kw=style)
        if name != "ours":
            ratio = f"{found['times_as_fast_as']['ours']['ratio']:.2f}"
            axis.annotate(
                ratio, (x, max(speed, high)), (0, 3), textcoords="offset points", ha="center", fontsize=6.5, color=INK
            )


AREA = Area(
    title="Training",
    benchmarks=(
        Benchmark(
            "model_step",
            arguments=("--compile", "nano_10m", "--rounds", "3"),
            toy=(
                *("--threads", "1", "--models", "nano_1m"),
                *("--sequences", "1", "--length", "16", "--rounds", "1"),
            ),
            minutes=4.3,
        ),
        Benchmark(
            "loop_overhead",
            arguments=("--data", "{corpus}", "--block", "5"),
            toy=(
                *("--data", "{corpus}", "--model", "ladder_70k", "--threads", "1"),
                *("--batch", "2", "--micro-batch", "1", "--length", "16", "--rounds", "2", "--block", "2"),
            ),
            minutes=1.8,
        ),
        Benchmark(
            "cpu_linear",
            ("--rounds", "4"),
            ("--rounds", "1", "--repeats", "1", "--size", "1024", "1024", "256"),
            minutes=0.9,
        ),
        Benchmark("cpu_peaks", toy=("--attempts", "1"), minutes=0.3),
    ),
    rows=(
        *(
            Row(
                f"A step of `{model}`, {precision}",
                "model_step",
                _speed(model, precision),
                _speed_of_peers(model, precision),
            )
            for model in _MODELS
            for precision in _PRECISIONS
        ),
        Row(
            "Peak memory of these six, MB",
            "model_step",
            lambda result: _memory(result, "ours"),
            _memory_of_peers,
        ),
        *(
            Row(f"Compiled blocks, `nano_10m`, {precision}", "model_step", _compiled(precision))
            for precision in _PRECISIONS
        ),
        Row(
            "The whole loop over the bare step",
            "loop_overhead",
            _loop,
            _loop_of_peers,
            goal=f"under {_LOOP_GOAL}",
            met=lambda result: result["result"]["loop_over_bare"] < _LOOP_GOAL,
            missed="Next: profile what runs between steps (records, progress, TensorBoard).",
        ),
        Row(
            "Large fp32 linear layers by oneDNN, as not on Intel's, beside torch's BLAS",
            "cpu_linear",
            _onednn("forward"),
        ),
        Row("The same with gradients", "cpu_linear", _onednn("forward_and_backward")),
        Row(
            "Products of 2,048 x 2,048 matrices",
            "cpu_peaks",
            lambda result: f"{result['fp32_teraflops']:.2f} TFLOP/s in fp32, {result['bf16_teraflops']:.2f} in bf16",
        ),
        Row(
            "Copies in memory; all-gather of two ranks over gloo",
            "cpu_peaks",
            lambda result: (
                f"{result['copy_gigabytes_per_second']:.0f} GB/s read and written; "
                f"{result['gather_gigabytes_per_second']:.2f} GB/s received"
            ),
        ),
    ),
    text="A step is forward, backward and fused AdamW on 8 x 256 tokens, with weights and optimiser in fp32; bf16 is "
    "mixed precision. Contestants have a process each and take turns; ratios are medians within rounds, with their "
    "quartiles in brackets, and the share is that of large matrix products of the same format, measured in the same "
    "rounds. transformers' `NemotronForCausalLM` has the same weights and gives the same loss. litgpt's `GPT` is "
    "given the same width, depth, heads, vocabulary, biases and norms, and so has as many parameters; it has no "
    "squared ReLU, and GELU stands in its place. `nemotron4 train` keeps freed memory between steps, which the others "
    "do not by themselves; they were also measured with it. In the picture, the figure on a bar is its speed "
    "relative to ours.",
    pictures={"training_step": _draw},
)
