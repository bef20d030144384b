"""CPU seconds and results of the harness's tasks: our adapter beside lm-eval's own `hf` backend.

Both get the same model directory, task files and local items, one thread, and `document_start=none`; for rolling
likelihood `hf` is told our end-of-sequence id, which is what precedes a text in ours. Seconds are those of the
processor in `evaluate`, without loading model and items. They take turns at each task; `hf` does so at several batch
sizes, and the best of each task counts. Needs accelerate, for `hf`.

    python tools/bench/evaluation.py MODEL_DIR --corpus DIR --output tools/bench/results/evaluation.json
    python tools/bench/evaluation.py MODEL_DIR --data DIR [WHEEL ...] --output tools/bench/results/evaluation_items.json

Items are made of a corpus's held-out text, or are those of the benchmarks, which no package of ours contains.
"""

import argparse
import json
import logging
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import lm_eval.tasks
import torch
from contestants import compared, turns
from datasets import Dataset
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from machine import description, publish
from made_items import KINDS, task

from nemotron4_eval.data.locate import DataSource, MissingDataError, load
from nemotron4_eval.harness.model import EngineLM
from nemotron4_infer import load_model_directory
from nemotron4_model import DType

TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy", 0),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag", 0),
    "piqa": ("piqa/piqa.yaml", "piqa", 0),
    "winogrande": ("winogrande/default.yaml", "winogrande", 0),
    "social_iqa": ("siqa/siqa.yaml", "social_iqa", 0),
    "mmlu_anatomy": ("mmlu/default/mmlu_anatomy.yaml", "mmlu/anatomy", 5),
    "mmlu_computer_security": ("mmlu/default/mmlu_computer_security.yaml", "mmlu/computer_security", 5),
    "mmlu_philosophy": ("mmlu/default/mmlu_philosophy.yaml", "mmlu/philosophy", 5),
    "xcopa_et": ("xcopa/default_et.yaml", "xcopa/et", 0),
    "gsm8k_cot": ("gsm8k/gsm8k-cot.yaml", "gsm8k", 8),
    "wikitext": ("wikitext/wikitext.yaml", "hellaswag", 0),
}
"""The harness's file, what `load` calls its items, and shots. The pages of wikitext are made of HellaSwag's texts."""

PAGES, TEXTS_PER_PAGE = 10, 16


def items(dataset: str, places: list[Path], task: str, **_: Any) -> Any:
    """Splits of a dataset from the first place that has it."""
    for place in places:
        try:
            splits = load(dataset, DataSource(directory=place))
        except MissingDataError:
            continue
        if task != "wikitext":
            return splits
        texts = [f"{item['ctx']} {item['endings'][int(item['label'])]}" for item in splits["validation"]]
        pages = ["\n".join(texts[page * TEXTS_PER_PAGE :][:TEXTS_PER_PAGE]) for page in range(PAGES)]
        return {"test": Dataset.from_dict({"page": pages}), "train": [], "validation": []}
    raise SystemExit(f"{dataset}: is in none of {', '.join(map(str, places))}")


def configuration(task: str, places: list[Path]) -> dict[str, Any]:
    """The harness's task on local items."""
    path, dataset, shots = TASKS[task]
    config = load_yaml(Path(lm_eval.tasks.__file__).parent / path)
    config = {key: value for key, value in config.items() if key not in ("dataset_path", "dataset_name", "tag")}
    config["dataset_kwargs"] = None
    return config | {"custom_dataset": partial(items, dataset, places, task), "num_fewshot": shots}


def measure(lm: Any, config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Items, CPU seconds, metrics, and each item's responses."""
    loaded = TaskManager(include_defaults=False).load([config])
    for each in loaded["tasks"].values():
        each.set_fewshot_seed(seed=1234)
    started = time.process_time()
    found = evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    seconds = time.process_time() - started
    assert found is not None
    [name] = found["results"]
    metrics = {key: value for key, value in found["results"][name].items() if "," in key and "stderr" not in key}
    responses = [sample["resps"] for sample in found["samples"][name]]
    return {"seconds": seconds, "speed": len(responses) / seconds, "metrics": metrics, "responses": responses}


def compare(ours: list[Any], theirs: list[Any]) -> dict[str, Any]:
    """How far two lists of responses are apart."""
    # Items, their requests, and the responses to each.
    items = zip(ours, theirs, strict=True)
    requests = [pair for a, b in items for pair in zip(a, b, strict=True)]
    pairs = [pair for a, b in requests for pair in zip(a, b, strict=True)]
    if isinstance(pairs[0][0], str):
        return {"texts": len(pairs), "equal_texts": sum(a == b for a, b in pairs)}
    nats = [(a[0], b[0]) if isinstance(a, tuple) else (a, b) for a, b in pairs]
    flags = sum(a[1] != b[1] for a, b in pairs if isinstance(a, tuple))
    return {"largest_difference_nats": max(abs(a - b) for a, b in nats), "greedy_flags_that_differ": flags}


def row(name: str, config: dict[str, Any], limit: int | None, rounds: int, ours: Any, hf: dict[int, Any]) -> Any:
    """A task's figures: medians over rounds, and the median of the ratios within them."""
    contestants = {str(size): partial(measure, lm) for size, lm in hf.items()} | {"ours": partial(measure, ours)}
    measured = turns(contestants, (config, limit), rounds)
    found = compared(measured, "ours", digits=2)
    best = min(hf, key=lambda size: statistics.median(each[str(size)]["seconds"] for each in measured))
    mine, theirs = measured[-1]["ours"], measured[-1][str(best)]
    gain = compared(measured, str(best))["ours"]

    def seconds(contestant: str) -> float:
        return round(statistics.median(each[contestant]["seconds"] for each in measured), 2)

    return {
        "task": name,
        "items": len(mine["responses"]),
        "metrics": mine["metrics"],
        "hf_metrics": theirs["metrics"],
        "seconds": seconds("ours"),
        "hf_seconds": {size: seconds(str(size)) for size in hf},
        "items_per_second": found["ours"]["speed"],
        "hf_items_per_second": found[str(best)]["speed"],
        "hf_best_batch_size": best,
        "gain": gain["ratio"],
        "gain_quartiles": gain["quartiles"],
        "same_metrics": same(mine["metrics"], theirs["metrics"]),
        **compare(mine["responses"], theirs["responses"]),
    }


def same(ours: dict[str, float], theirs: dict[str, float]) -> bool:
    """Whether shares of items are equal, and what is computed of sums of probabilities agrees to four digits."""
    sums = ("perplexity", "bits_per_byte")
    return all(
        abs(value - theirs[key]) <= (1e-4 * abs(value) if any(kind in key for kind in sums) else 0)
        for key, value in ours.items()
    )


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--corpus", type=Path, help="a prepared corpus, to make items of")
    where.add_argument("--data", type=Path, nargs="+", help="where the benchmarks' items are")
    parser.add_argument(
        "--tasks", nargs="+", choices=(*KINDS, *TASKS), help="all of --corpus or of --data if not given"
    )
    parser.add_argument("--limit", type=int, nargs="+", default=[100], help="items of each task, or of all")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    document = description("torch", "lm_eval", "transformers", threads=1)
    torch.set_num_threads(1)
    loaded = load_model_directory(arguments.model_dir, DType.fp32)
    ours = EngineLM(loaded, document_start="none")
    hf = {
        size: HFLM(
            arguments.model_dir,
            dtype="float32",
            device="cpu",
            prefix_token_id=loaded.tokenizer.eos_id,
            batch_size=size,
        )
        for size in arguments.batch_sizes
    }
    names = arguments.tasks or (KINDS if arguments.corpus else TASKS)
    limits = arguments.limit * len(names) if len(arguments.limit) == 1 else arguments.limit
    rows = []
    for name, limit in zip(names, limits, strict=True):
        config = task(name, arguments.corpus) if arguments.corpus else configuration(name, arguments.data)
        rows.append(row(name, config, limit, arguments.rounds, ours, hf))
        print(json.dumps(rows[-1]), flush=True)
    total, hf_total = (
        sum(each["seconds"] for each in rows),
        sum(min(each["hf_seconds"].values()) for each in rows),
    )
    document |= {
        "what": "CPU seconds of evaluate for each task, our adapter and lm-eval's hf backend at its best batch size",
        "model": f"{sum(parameter.numel() for parameter in loaded.model.parameters()):,} parameters, fp32",
        "items": "made of held-out text of the corpus" if arguments.corpus else "of the benchmarks",
        "rounds": arguments.rounds,
        "rows": rows,
        "total_seconds": round(total, 1),
        "hf_total_seconds": round(hf_total, 1),
        "gain": round(hf_total / total, 2),
        "same_results": all(each["same_metrics"] for each in rows),
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
