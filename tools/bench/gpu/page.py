"""The tables of docs/performance.md that a GPU session fills: what was estimated beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- gpu session: begin -->", "<!-- gpu session: end -->"
_NOT_RUN = "not run on a GPU"
_DETERMINISTIC, _EAGER = "training_eager_deterministic", "training_eager"
_COMPILED, _FLOAT8 = "training_compiled", "training_compiled_float8"
_VARIANTS = (
    ("eager, deterministic", _DETERMINISTIC, "311, 48 %", "331, 45 %"),
    ("eager", _EAGER, "256, 58 %", "276, 54 %"),
    ("compiled", _COMPILED, "238, 62 %", "250, 60 %"),
    ("compiled, float8 in the blocks", _FLOAT8, "208, 72 %", "220, 68 %"),
)
"""Variant, its part, and what was estimated on an H200 and on an H100."""
_GAINS = (
    ("the head's loss: larger chunks, in place, its weight's gradient summed by the product", "64", None),
    ("attention that need not be deterministic (cuDNN)", "55", (_DETERMINISTIC, _EAGER)),
    ("compiled blocks", "18", (_EAGER, _COMPILED)),
    ("a bf16 residual stream, and weights cast once a step", "8", None),
    ("float8 products in the blocks", "30", (_COMPILED, _FLOAT8)),
)
"""Change, milliseconds of a micro-batch that it was estimated to save on an H200, and the parts that show it."""
_ELSEWHERE = (
    ("15B on 8 GPUs, tensor parallel, not compiled", "31 to 34 % MFU"),
    ("15B on 8 GPUs, sharded, compiled, selective recomputation, 4 sequences a GPU", "about 55 % MFU"),
    ("no gathering of embedding and head in backward", "two gathers and 3.1 GB less"),
    ("blocks kept gathered for backward (15B, tensor 8)", "a third less traffic, 3.9 GB more"),
    ("Muon at 1.75B, before its iterations were sharded", "0.7 s a step"),
)
_ENGINE = (
    ("1 sequence, bf16, not compiled", "decode_eager", 0, "none"),
    ("1 sequence, bf16", "decode_compiled", 0, "97 tokens/s"),
    ("1 sequence, fp8", "decode_fp8", 0, "180 tokens/s"),
    ("1 sequence, int8", "decode_int8", 0, "none"),
    ("1 sequence, int4", "decode_int4", 0, "300 tokens/s"),
    ("64 sequences after 2,048 tokens, bf16", "decode_compiled", 1, "3,600 tokens/s"),
    ("64 sequences after 2,048 tokens, fp8", "decode_fp8", 1, "none"),
    ("64 sequences after 2,048 tokens, int8", "decode_int8", 1, "none"),
    ("64 sequences after 2,048 tokens, int4", "decode_int4", 1, "none"),
    ("a prompt of 2,048 tokens, bf16", "prefill", 0, "700 TFLOP/s"),
)
"""What the engine computes, the check, which of its figures, and the goal on an H100."""
_DECODE_ESTIMATE = "10 to 12 ms a token, 6.5 by the bandwidth alone"
_RATES = {
    "milliseconds": "ms",
    "milliseconds_per_token": "ms a token",
    "tokens_per_second": "tokens/s",
    "teraflops": "TFLOP/s",
}

Records = Sequence[Mapping[str, Any]]


def render(documents: Sequence[Mapping[str, Any]]) -> str:
    """The text between the markers: estimates beside "not run on a GPU", or a section of each machine's results."""
    rows = _ELSEWHERE if documents else (*_ELSEWHERE, ("decoding of the 15B on an H200", _DECODE_ESTIMATE))
    others = _table(("elsewhere", "estimated", "measured"), [(*row, _NOT_RUN) for row in rows])
    if not documents:
        return "\n\n".join((*_training([]), _engine([]), others))
    return "\n\n".join((*map(_section, documents), others))


def write(page: Path, results: Path) -> None:
    """Fill the page's tables from all `gpu_*.json` of a directory."""
    page.write_text(filled(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def filled(text: str, results: Path) -> str:
    """The page's text with its tables filled."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("gpu_*.json"))]
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{render(documents)}\n\n{END}{rest.split(END)[1]}"


def _section(document: Mapping[str, Any]) -> str:
    records = document["checks"]
    counts = dict.fromkeys((record["status"] for record in records), 0)
    for record in records:
        counts[record["status"]] += 1
    failed = [f"{record['part']} {record['check']}" for record in records if record["status"] == "failed"]
    versions = document["versions"]
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    lines = [
        f"### {document['machine']['gpu']}",
        f"torch {versions['torch']}, Python {versions['python']}, commit `{document['commit'][:12]}`."
        f" Checks: {summary}.{' Failed: ' if failed else ''}{', '.join(failed)}",
        *_training(records),
    ]
    inference = [
        (f"15B, {check.replace('_', ' ')}", size, _rate(rates))
        for check in ("prefill", "decode")
        for size, rates in _figures(records, "inference", check).items()
    ]
    if inference:
        lines.append(_table(("in bf16, random weights", "tokens", "measured"), inference))
        lines.append(f"Decoding one sequence was estimated at {_DECODE_ESTIMATE}, on an H200.")
    lines.append(_engine(records))
    return "\n\n".join(lines)


def _training(records: Records) -> list[str]:
    variants = [(name, *estimates, _speed(records, part)) for name, part, *estimates in _VARIANTS]
    gains = [(name, estimate, _gain(records, parts)) for name, estimate, parts in _GAINS]
    head = ("1.75B: ms of 16,384 tokens, MFU", "estimated, H200", "estimated, H100", "measured")
    return [_table(head, variants), _table(("what each saves", "estimated ms, H200", "measured"), gains)]


def _figures(records: Records, part: str, check: str) -> Mapping[str, Any]:
    found: list[Mapping[str, Any]] = [
        record.get("figures", {}) for record in records if (record["part"], record["check"]) == (part, check)
    ]
    return found[0] if found else {}


def _of_variant(records: Records, part: str) -> Mapping[str, Any]:
    return _figures(records, part, part.removeprefix("training_"))


def _speed(records: Records, part: str) -> str:
    found = _of_variant(records, part)
    if not found:
        statuses = [record["status"] for record in records if record["part"] == part]
        return statuses[0] if statuses else _NOT_RUN
    sequences, tokens = found["micro_batch"]
    mfu = "" if found["mfu"] is None else f", {_percent(found['mfu'])}"
    other = "" if sequences * tokens == 16_384 else f", of {sequences * tokens:,} tokens"
    memory = f", {found['peak_gibibytes']} GiB" if "peak_gibibytes" in found else ""
    return f"{found['milliseconds_per_micro_batch']:.0f}{mfu}{other}{memory}"


def _gain(records: Records, parts: tuple[str, str] | None) -> str:
    if parts is None:
        return "not measured by itself" if records else _NOT_RUN
    before, after = (_of_variant(records, part).get("milliseconds_per_micro_batch") for part in parts)
    if before is None or after is None:
        return "not measured" if records else _NOT_RUN
    return f"{before - after:.0f}"


def _engine(records: Records) -> str:
    rows = [(name, goal, _of_engine(records, check, place)) for name, check, place, goal in _ENGINE]
    return _table(("the engine at the 15B's shape", "goal, one H100", "measured"), rows)


def _of_engine(records: Records, check: str, place: int) -> str:
    found = list(_figures(records, "engine", check).values())
    statuses = [record["status"] for record in records if (record["part"], record["check"]) == ("engine", check)]
    return _rate(found[place]) if found else (statuses or [_NOT_RUN])[0]


def _rate(rates: Mapping[str, Any]) -> str:
    shown = [f"{rates[name]:,} {unit}" for name, unit in _RATES.items() if name in rates]
    if "share_of_copy_bandwidth" in rates:
        shown.append(f"{_percent(rates['share_of_copy_bandwidth'])} of the bandwidth")
    return ", ".join(shown)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
