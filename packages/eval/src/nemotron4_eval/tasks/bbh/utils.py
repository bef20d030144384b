"""BIG-Bench Hard: prompts and answers. Prompts are read from the harness's own tasks, which hold the published ones.

Source: Suzgun et al., arXiv 2210.09261.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.tasks._yaml_loader import load_yaml


@cache
def _published(folder: str, task: str) -> dict[str, Any]:
    found = find_spec("lm_eval")
    assert found is not None
    assert found.origin is not None
    prompts: dict[str, Any] = load_yaml(Path(found.origin).parent / "tasks" / "bbh" / folder / f"{task}.yaml")
    return prompts


def with_description(items: Dataset) -> Dataset:
    """Items with the sentence that begins the prompt of their task."""
    description = _published("fewshot", items[0]["task"])["description"]
    return items.add_column("description", [description] * len(items))


def cot_examples(items: Dataset) -> list[dict[str, str]]:
    """The three examples of the items' task, with a chain of thought."""
    examples: list[dict[str, str]] = _published("cot_fewshot", items[0]["task"])["fewshot_config"]["samples"]
    return examples


def direct_examples(items: Dataset) -> list[dict[str, str]]:
    """The three examples of the items' task, with the answer alone."""
    examples: list[dict[str, str]] = _published("fewshot", items[0]["task"])["fewshot_config"]["samples"]
    return examples


def answers(responses: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[str]:
    """The answers of the first responses."""
    return [answer(response[0]) for response in responses]


def answer(response: str) -> str:
    """The line after the last "answer is", without a full stop at its end; if there is none, the first line."""
    said = response.rpartition("answer is ")[2].strip()
    return said.partition("\n")[0].removesuffix(".").strip()
