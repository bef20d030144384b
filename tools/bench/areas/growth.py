"""Growth: how time grows with parameters, ranks, sources and documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmark import Area, Benchmark, Result, Row

from areas.panels import INK, PALETTE, panels

_PANELS = {
    "growth_parameters": ("a training step, by parameters that it multiplies by", "parameters"),
    "growth_ranks": ("a training step, by ranks on this machine", "ranks"),
    "growth_sources": ("by sources of a corpus", "sources"),
    "growth_documents": ("by documents", "documents"),
}
"""Title and axis of each benchmark's panel."""
_LEAST_SPAN = 8.0
"""Of an axis of seconds, from its lower to its upper end."""


def _times(curve: str, factor: int) -> Callable[[Result], str]:
    def value(result: Result) -> str:
        exponent = result["curves"][curve]["exponent"]
        return f"{factor**exponent:.2f} times the time (exponent {exponent:.2f})"

    return value


def _exponents(*names: str) -> Callable[[Result], str]:
    """Of these curves; of all, if none is named."""

    def value(result: Result) -> str:
        curves = result["curves"]
        return "exponents " + ", ".join(f"{curves[name]['exponent']:.2f} ({name})" for name in names or curves)

    return value


def _over_one_rank(curve: str, ranks: int) -> Callable[[Result], str]:
    def value(result: Result) -> str:
        found = result["seconds_over_one_rank"][curve][str(ranks)]
        return f"{found['median']:.2f} times the time of one rank ({found['least']:.2f} to {found['most']:.2f})"

    return value


def _draw(results: Mapping[str, Result]) -> Any:
    """Logarithmic panels: seconds as measured, and the power law through them with its exponent."""
    found = {name: results[name]["curves"] for name in _PANELS if "curves" in results.get(name, {})}
    if not found:
        raise LookupError("curves")
    columns = min(2, len(found))
    figure, axes = panels(-(-len(found) // columns), columns, width=4.8, height=3.4)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    for axis, (name, curves) in zip(axes, found.items(), strict=False):
        for index, (label, curve) in enumerate(curves.items()):
            # Smaller marks lie on larger ones, where curves share a point.
            _draw_curve(axis, PALETTE[index % len(PALETTE)], max(3.0, 7 - 1.5 * index), f"{label}: ", curve)
        title, unit = _PANELS[name]
        axis.set_title(title, fontsize=9.5, color=INK, loc="left")
        axis.set_xlabel(unit, fontsize=8.5, color=INK)
        axis.set_ylabel("seconds", fontsize=8.5, color=INK)
        axis.legend(fontsize=7.5, frameon=False, loc="upper left")
        _set_ticks(axis, {point["size"] for curve in curves.values() for point in curve["points"]})
    return figure


def _draw_curve(axis: Any, colour: str, mark: float, label: str, curve: Mapping[str, Any]) -> None:
    sizes = [point["size"] for point in curve["points"]]
    seconds = [point["seconds"] for point in curve["points"]]
    exponent = curve["exponent"]
    # The line of least squares goes through the geometric means.
    level = _geometric_mean(seconds) / _geometric_mean(sizes) ** exponent
    axis.loglog(sizes, [level * size**exponent for size in sizes], "--", color=colour, linewidth=1.0, alpha=0.7)
    axis.loglog(sizes, seconds, "o", color=colour, markersize=mark, label=f"{label}exponent {exponent:.2f}")
    axis.grid(which="major", axis="both", color="#dddddd", linewidth=0.6)


def _geometric_mean(values: list[float]) -> float:
    product = 1.0
    for value in values:
        product *= value ** (1 / len(values))
    return product


def _set_ticks(axis: Any, sizes: set[float]) -> None:
    """Few ranks or sources are labelled by their number, a wide range by powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_ylim()
    narrow = max(1.0, _LEAST_SPAN / (high / low)) ** 0.5
    low, high = low / narrow, high * narrow  # so that what hardly grows looks like it
    axis.set_ylim(low, high * (high / low) ** 0.15)  # room for the legend
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    if len(sizes) <= 4 and max(sizes) < 1e4:
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(sorted(sizes), [f"{size:,.0f}" for size in sorted(sizes)])


_BOTH, _SHARED, _ONE_THREAD = "wider and deeper", "as nemotron4 train does", "one thread a rank"


_SOURCES = {
    "open": "Opening a corpus",
    "shards": "Mapping every source's shard",
    "order": "Making the order of a run",
    "locate": "Locating a sample",
    "step": "Locating the 1,152 samples of a step",
    "positions": "Tokens drawn from each source, for a ledger",
    "load": "Reading a million tokens",
}


def _sources_row(name: str, what: str) -> Row:
    def value(result: Result) -> str:
        found = result["curves"][name]
        times = ", ".join(f"{point['seconds'] * 1e3:.3g}" for point in found["points"])
        return f"{times} ms; exponent {found['exponent']:.2f}"

    return Row(
        what=f"{what}, of 10, 100, 1,000 sources",
        benchmark="growth_sources",
        value=value,
        goal="linear: an exponent of 1.15 at most",
        met=lambda result: result["curves"][name]["exponent"] <= 1.15,
    )


_SOURCES_ROWS = tuple(_sources_row(name, what) for name, what in _SOURCES.items())


def _documents(result: Result) -> str:
    found, memory = result["curves"]["prepare"], result["peak_megabytes"]
    times = ", ".join(f"{point['seconds']:.1f}" for point in found["points"])
    peaks = ", ".join(f"{megabytes / 1e3:.1f}" for megabytes in memory.values())
    return f"{times} s; exponent {found['exponent']:.2f}; {peaks} GB"


_DOCUMENTS_ROWS = (
    Row(
        what="`prepare` with near deduplication, of 1e3 to 1e6 documents of 50 bytes, two workers",
        benchmark="growth_documents",
        value=_documents,
        goal="at most linear",
        met=lambda result: result["curves"]["prepare"]["exponent"] <= 1.15,
    ),
)

AREA = Area(
    title="Growth",
    benchmarks=(
        Benchmark(
            "growth_parameters",
            toy=("--smallest", "2", "--sequences", "1", "--length", "16", "--rounds", "2", "--threads", "1"),
            minutes=0.8,
        ),
        Benchmark(
            "growth_ranks",
            arguments=("--data", "{corpus}", "--steps", "8"),
            toy=(
                *("--data", "{corpus}", "--model", "ladder_70k", "--ranks", "1", "2"),
                *("--batch", "4", "--length", "16", "--steps", "4", "--rounds", "1"),
            ),
            minutes=2.1,
        ),
        Benchmark(
            "growth_sources",
            arguments=("{corpus}",),
            toy=("{corpus}", "--sources", "2", "4", "--tokens", "50000", "--rounds", "1"),
            minutes=0.2,
        ),
        Benchmark(
            "growth_documents",
            arguments=("{corpus}/tokenizer/tokenizer.model",),
            toy=("{corpus}/tokenizer/tokenizer.model", "--documents", "200", "400", "--workers", "1"),
            minutes=1,
        ),
    ),
    rows=(
        Row("A training step, twice the parameters (wider and deeper)", "growth_parameters", _times(_BOTH, 2)),
        Row("The same, four times the parameters", "growth_parameters", _times(_BOTH, 4)),
        Row("The same, only wider and only deeper", "growth_parameters", _exponents("wider", "deeper")),
        Row("A training step on two ranks, the cores shared out", "growth_ranks", _over_one_rank(_SHARED, 2)),
        Row("The same on four", "growth_ranks", _over_one_rank(_SHARED, 4)),
        Row("On two ranks, one thread each", "growth_ranks", _over_one_rank(_ONE_THREAD, 2)),
        Row("The same on four", "growth_ranks", _over_one_rank(_ONE_THREAD, 4)),
        *_SOURCES_ROWS,
        *_DOCUMENTS_ROWS,
    ),
    text="Each curve is a power law, by least squares of logarithms; an exponent of 1 means that twice the size takes "
    "twice the time. Parameters are those that a step multiplies by, so without the embedding table, from `nano_1m`'s "
    "up to sixteen times as many; an exponent below 1 says that larger products run closer to the machine's peak. "
    "Ranks train the same model on the same global batch through FSDP2 over gloo and share the cores of "
    "one machine: a rank alone uses all cores already, so more of them add traffic and no core, and more ranks than "
    "cores also wait for each other. With one thread each, a second rank brings a second core. Neither says "
    "anything of several machines.",
    pictures={"growth": _draw},
)
