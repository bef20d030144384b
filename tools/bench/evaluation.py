"""CPU seconds and results of the harness's tasks: our adapter beside lm-eval's own `hf` backend.

Both get the same model directory, task files and local items, one thread, and `document_start=none`; for rolling
likelihood `hf` is told our end-of-sequence id, which is what precedes a text in ours. Seconds are those of the
processor in `evaluate`, without loading model and items. `hf` runs at several batch sizes, and the best of each task
counts. Needs accelerate, for `hf`.

    python tools/bench/evaluation.py MODEL_DIR --data DIR [WHEEL ...] --output tools/bench/results/evaluation.json
"""

import argparse
import json
import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import lm_eval.tasks
import torch
from datasets import Dataset
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from machine import description, publish

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


def measure(lm: Any, config: dict[str, Any], limit: int) -> tuple[float, dict[str, Any], list[Any]]:
    """CPU seconds, metrics, and each item's responses."""
    loaded = TaskManager(include_defaults=False).load([config])
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=1234)
    started = time.process_time()
    found = evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    seconds = time.process_time() - started
    assert found is not None
    [name] = found["results"]
    metrics = {key: value for key, value in found["results"][name].items() if "," in key and "stderr" not in key}
    return seconds, metrics, [sample["resps"] for sample in found["samples"][name]]


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


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 8, 16, 32])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    document = description("torch", "lm_eval", "transformers", threads=1)
    torch.set_num_threads(1)
    loaded = load_model_directory(arguments.model_dir, DType.fp32)
    eos = loaded.tokenizer.eos_id
    ours = EngineLM(loaded, document_start="none")
    theirs = [
        HFLM(arguments.model_dir, dtype="float32", device="cpu", prefix_token_id=eos, batch_size=size)
        for size in arguments.batch_sizes
    ]
    rows: list[dict[str, Any]] = []
    for task in arguments.tasks:
        config = configuration(task, arguments.data)
        seconds, metrics, responses = measure(ours, config, arguments.limit)
        row: dict[str, Any] = {"task": task, "metrics": metrics, "seconds": round(seconds, 2)}
        measured = {
            size: measure(lm, config, arguments.limit) for size, lm in zip(arguments.batch_sizes, theirs, strict=True)
        }
        if measured:
            best = min(measured, key=lambda size: measured[size][0])
            their_seconds, their_metrics, their_responses = measured[best]
            row |= {
                "hf_metrics": their_metrics,
                "hf_seconds": {size: round(each[0], 2) for size, each in measured.items()},
                "hf_best_batch_size": best,
                "gain": round(their_seconds / seconds, 2),
                "same_metrics": all(
                    abs(value - their_metrics[key]) <= (1e-4 * abs(value) if task == "wikitext" else 0)
                    for key, value in metrics.items()
                ),
                **compare(responses, their_responses),
            }
        print(json.dumps(row), flush=True)
        rows.append(row)
    document |= {
        "what": "CPU seconds of evaluate for each task, our adapter and lm-eval's hf backend at its best batch size",
        "model": f"{sum(parameter.numel() for parameter in loaded.model.parameters()):,} parameters, fp32",
        "limit": arguments.limit,
        "rows": rows,
        "total_seconds": round(sum(row["seconds"] for row in rows), 1),
    }
    if arguments.batch_sizes:
        document["hf_total_seconds"] = round(sum(min(row["hf_seconds"].values()) for row in rows), 1)
        document["gain"] = round(document["hf_total_seconds"] / document["total_seconds"], 2)
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
