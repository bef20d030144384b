"""Evaluation beside the harness's own backend."""

from functools import partial

from benchmark import Area, Benchmark, Result, Row

_KINDS = {
    "options": "four endings of a text, as HellaSwag",
    "few_shot": "four letters after five examples, as MMLU",
    "pages": "likelihood of pages, as WikiText",
    "texts": "greedy text after eight examples, as GSM8K",
}


def _task(kind: str, result: Result) -> Result:
    (found,) = [row for row in result["rows"] if row["task"] == kind] or [{}]
    return found


def _speed(kind: str, result: Result) -> str:
    row = _task(kind, result)
    return f"{row['items_per_second']:.3g} items/s ({row['gain']:.2f}x, quartiles {_range(row['gain_quartiles'])})"


def _range(quartiles: list[float]) -> str:
    return " to ".join(f"{each:.2f}" for each in quartiles)


def _peer(kind: str, result: Result) -> str:
    row = _task(kind, result)
    return f"{row['hf_items_per_second']:.3g} items/s (`hf`, batch size {row['hf_best_batch_size']})"


def _gain(result: Result) -> str:
    same = all(row["same_metrics"] for row in result["rows"])
    return f"{result['gain']:.2f}x, {'the same results' if same else '**other results**'}"


def _seconds(result: Result) -> str:
    ours, theirs = result["total_seconds"], result["hf_total_seconds"]
    return f"{theirs} s of a core (`hf`); ours {ours} s, commit `{result['commit'][:12]}`"


def _whole(benchmark: str, what: str, missed: str) -> Row:
    return Row(
        what=what,
        benchmark=benchmark,
        value=_gain,
        peer=_seconds,
        goal="2x lm-eval's `hf`",
        met=lambda result: result["gain"] >= 2,
        missed=missed,
    )


AREA = Area(
    title="Evaluation",
    benchmarks=(
        Benchmark(
            "evaluation",
            arguments=(
                *("{model_of_corpus}", "--corpus", "{corpus}"),
                *("--limit", "16", "24", "2", "6", "--rounds", "2"),
            ),
            toy=(
                *("{model_of_corpus}", "--corpus", "{corpus}"),
                *("--limit", "2", "2", "1", "1", "--rounds", "1", "--batch-sizes", "2"),
            ),
            packages=("accelerate", "lm_eval", "transformers"),
            minutes=2.2,
        ),
    ),
    rows=(
        _whole(
            "evaluation", "all four kinds of request", "Next: profile the kind of request with the lowest ratio below."
        ),
        *(Row(what, "evaluation", partial(_speed, kind), partial(_peer, kind)) for kind, what in _KINDS.items()),
        _whole(
            "evaluation_items",
            "items of 11 tasks, which no package contains",
            "Next: its tasks with the lowest `gain`.",
        ),
    ),
    text="""\
A model of 10M parameters with random weights answers items made of the sample's held-out English text, once by our
adapter and once by lm-eval's `hf` backend, in turns, with the same task, tokens and answers. Seconds are the
processor's, of one thread, without loading; `hf` counts at the better of batch sizes 16 and 32. The benchmarks' own
items cannot be shipped: `tools/bench/evaluation.py MODEL_DIR --data DIR` runs ARC, HellaSwag, PIQA, Winogrande, SIQA,
three subjects of MMLU, XCOPA, GSM8K and pages of text for who has them, and its last result, by a model that the
demo's pipeline trained, is the last row.""",
)
