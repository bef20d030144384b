"""Inference: decoding, prompts, serving, quantised weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmark import Area, Benchmark, Result, Row

THEIRS, LLAMA = "transformers", "llama.cpp"
FORMATS = ("fp32", "bf16", "int8", "int4")
BATCHES = ("batch 1", "batch 8", "batch 32")
GOALS = {"batch 1": 3, "batch 8": 2}
"""Times transformers' `generate`."""
TOY = ("--model", "ladder_70k", "--formats", "fp32", "--rounds", "1", "--new-tokens", "4")
DECODE_TOY = (*TOY, "--prompt-tokens", "70")
SERVING_TOY = (*TOY, "--prompt-tokens", "8", "--clients", "1", "2", "--requests", "1")
TRAINED = ("--model-dir", "{trained}", "--corpus", "{corpus}")
MISSED = {
    "batch 1": "What the bandwidth of a core would allow stands beside the speed. Below it: products that read at two"
    " thirds of what a sum reads, some 20 us of each of 33 calls of oneDNN before they multiply (14 of them without"
    " Python), and some 200 small operators. Next: a step in fewer operators.",
    "batch 8": "On an AMD EPYC, products take 61 % of a step in fp32 and 49 % in bf16, where 8 rows cost a third more"
    " than 6; attention, one call a sequence and layer, takes 20 and 26 %. Next: a step in fewer operators.",
}


def _times(result: Result, work: str, name: str, peer: str) -> str:
    to = result[work][name]["to"][peer]
    return f"{to['ratio']:.3g} ({to['quartiles'][0]:.3g} to {to['quartiles'][1]:.3g}) times {peer}"


def _speed(work: str, name: str) -> Callable[[Result], str]:
    peer = _base(name)

    def value(result: Result) -> str:
        found = f"{result[work][name]['tokens_per_second']:,.0f} tokens/s: {_times(result, work, name, peer)}"
        if work != "batch 1":
            return found
        bandwidth = result["bandwidth"]
        own = bandwidth[name]
        return (
            f"{found}; {100 * own['share']:.0f} % of the {bandwidth['read_gigabytes_per_second']:g} GB/s that a core"
            f" reads, all of which would be {own[f'most_to_{THEIRS} fp32']:.2g} times {THEIRS} fp32"
        )

    return value


def _base(name: str) -> str:
    """What a goal compares with: transformers in the same format, in fp32 where it has none."""
    number_format = name.split()[1]
    return f"{THEIRS} {number_format if number_format in ('fp32', 'bf16') else 'fp32'}"


def _peers(work: str, number_format: str) -> Callable[[Result], str]:
    def peers(result: Result) -> str:
        found = result[work]
        parts = [
            f"{found[name]['tokens_per_second']:,.0f} ({name})"
            for name in (f"{who} {number_format}" for who in (THEIRS, LLAMA))
            if name in found
        ]
        if (llama := f"{LLAMA} {number_format}") in found:
            parts.append(f"ours {_times(result, work, f'ours {number_format}', llama)}")
        return ", ".join(parts)

    return peers


def _is_met(work: str, name: str) -> Callable[[Result], bool]:
    return lambda result: result[work][name]["to"][_base(name)]["ratio"] >= GOALS[work]


def _decode_row(work: str, number_format: str) -> Row:
    name, batch = f"ours {number_format}", work.removeprefix("batch ")
    what = (
        f"prompt of 512 tokens, {number_format}" if work == "prefill" else f"decode at batch {batch}, {number_format}"
    )
    row = Row(what, "decode", _speed(work, name), peer=_peers(work, number_format))
    if work not in GOALS or number_format == "int4":
        return row
    goal = f"{GOALS[work]} times {_base(name)}"
    return Row(what, "decode", row.value, row.peer, goal=goal, met=_is_met(work, name), missed=MISSED[work])


def _served(number_format: str, clients: int) -> Row:
    def figures(result: Result) -> Mapping[str, Any]:
        found: Mapping[str, Any] = result[f"served {number_format}"][f"{clients} clients"]
        return found

    def value(result: Result) -> str:
        found = figures(result)
        return (
            f"{found['requests_per_second']:.3g} requests/s, {found['tokens_per_second']:,.0f} tokens/s,"
            f" {found['ratio']:.3g} times; first token after {found['first_token_ms_p50']:,.0f} ms, then one in"
            f" {found['between_tokens_ms_p50']:,.0f} ms (medians)"
        )

    def peer(result: Result) -> str:
        base = result[f"{THEIRS} fp32"]
        return f"{base['requests_per_second']:.3g} requests/s ({THEIRS} fp32, one after another)"

    plural = "client" if clients == 1 else "clients"
    return Row(f"served {number_format}, {clients} {plural}", "serving", value, peer=peer)


def _quantised(number_format: str) -> Row:
    def value(result: Result) -> str:
        own, whole = (result["trained"][name]["bits_per_byte"] for name in (number_format, "fp32"))
        return f"{own - whole:+.4f} bits per byte to fp32's {whole:.3f}: {100 * (own / whole - 1):+.2f} %"

    return Row(f"what {number_format} costs on held-out text", "quantisation", value)


def _draw(results: Mapping[str, Result]) -> Any:
    from matplotlib.figure import Figure  # imported here: it takes long, and only pictures need it

    result = results["decode"]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    styles = {"ours": "o-", THEIRS: "s--", LLAMA: "^:"}
    for panel, formats in zip(axes, (FORMATS[:2], FORMATS[2:]), strict=True):
        for name in (name for name in result["batch 1"] if name.split()[-1] in formats):
            who, number_format = name.split()
            speeds = [result[batch][name]["tokens_per_second"] for batch in BATCHES]
            colour = f"C{formats.index(number_format)}"
            panel.plot([1, 8, 32], speeds, styles[who], color=colour, markersize=4, label=name)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks([1, 8, 32], ["1", "8", "32"])
        panel.set_xlabel("sequences decoded together")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize=8)
    axes[0].set_ylabel("tokens a second")
    return figure


AREA = Area(
    title="Inference",
    benchmarks=(
        Benchmark("decode", ("--rounds", "3"), DECODE_TOY, packages=("transformers",), minutes=1.6),
        Benchmark(
            "serving",
            ("--rounds", "3", "--new-tokens", "32"),
            SERVING_TOY,
            packages=("transformers", "fastapi", "uvicorn"),
            minutes=2,
        ),
        Benchmark(
            "quantisation",
            (*TRAINED, "--max-bytes-per-source", "1000", "--repeats", "3", "--size", "nano_30m"),
            (*TRAINED, "--max-bytes-per-source", "50", "--repeats", "1"),
            minutes=1.9,
        ),
    ),
    rows=(
        *(_decode_row(batch, number_format) for batch in BATCHES for number_format in FORMATS),
        *(_decode_row("prefill", number_format) for number_format in FORMATS),
        *(_served("fp32", clients) for clients in (1, 8, 32)),
        *(_served("bf16", clients) for clients in (1, 8, 32)),
        *(_quantised(number_format) for number_format in ("int8", "int4")),
    ),
    text=(
        "One thread each; `nano_30m` with random weights, greedy, prompts of 16 tokens. Ours, transformers' `generate`"
        " and llama.cpp, which reads our export as GGUF, take turns of one generation each, in processes of their own;"
        " times are those that a process computed, ratios are taken within rounds, with their quartiles. Nothing is"
        " guessed ahead or kept from earlier prompts. Our int8 and int4, and the servers, stand beside transformers in"
        " fp32; formats of llama.cpp with 8 or 4 bits are not measured. At batch 1 each step reads all"
        " weights but the embedding, so that the bandwidth of a core bounds it: `decode.json` has what a plain sum over"
        " as many bytes reached in the same rounds. Servers are asked by clients on the same machine, each of which"
        " sends one streamed request after another, with prompts of 64 tokens for 32 new ones. What quantising costs is"
        " measured on the demo's model after its first 200 steps, and on a part of the held-out text."
    ),
    pictures={"inference": _draw},
)
