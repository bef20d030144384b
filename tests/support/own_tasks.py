"""Two tasks of the LM Evaluation Harness as a user writes them, one multiple choice and one that generates."""

from __future__ import annotations

import json
from pathlib import Path

_COMMON = """\
task: {name}
dataset_path: json
test_split: test
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
doc_to_text: "{{{{question}}}}:"
"""
_CHOICE = """\
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: right
process_results: !function utils.score
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
_GENERATES = """\
output_type: generate_until
doc_to_target: answer
generation_kwargs: {until: ["\\n"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
# The Python code of a task may draw numbers.
_UTILS = """\
import random
import numpy as np
import torch

random.seed(1)

def score(doc, results):
    random.random(), np.random.rand(), torch.rand(1)
    likelihoods = [likelihood for likelihood, _ in results]
    return {"acc": float(np.argmax(likelihoods) == doc["right"])}
"""


def write_tasks(directory: Path) -> list[str]:
    """Paths of `colours`, 8 questions with two or three options, and `sums`, 9 questions."""
    choices = [["bako", "red and blue"], ["vi", "zum", "für"]]
    items = {
        "colours": [{"question": f"the {i}", "choices": choices[i % 2], "right": i // 2 % 2} for i in range(8)],
        "sums": [{"question": f"1 + {i}", "answer": str(1 + i)} for i in range(9)],
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "utils.py").write_text(_UTILS)
    paths = []
    for name, kind in (("colours", _CHOICE), ("sums", _GENERATES)):
        data, path = directory / f"{name}.jsonl", directory / f"{name}.yaml"
        data.write_text("".join(json.dumps(item) + "\n" for item in items[name]))
        path.write_text(_COMMON.format(name=name, data=data, cache=directory / "cache") + kind)
        paths.append(str(path))
    return paths
