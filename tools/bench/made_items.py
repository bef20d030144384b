"""Tasks of the LM Evaluation Harness made of a corpus's held-out text: the four kinds of request of the paper's tables.

A passage is a context and what follows it; the wrong endings of a question are those of other passages of its source.
Invariant: items depend on the corpus alone. They say how fast requests are answered, nothing about a model.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from nemotron4_data import Corpus

NUM_OPTIONS = 4
KINDS = ("options", "few_shot", "pages", "texts")
"""Endings to choose from (as HellaSwag), a letter after five examples (as MMLU), whole pages (as WikiText), and greedy
text after eight examples (as GSM8K)."""
WORDS = {"options": (40, 20), "few_shot": (24, 8), "texts": (60, 40)}
"""Of a passage: in its context, and in what follows."""
PAGE_WORDS = 1_000
SHOTS = {"few_shot": 5, "texts": 8}
GENERATED_TOKENS = 96
_QUESTION = (
    "{{context}}\nA. {{endings[0]}}\nB. {{endings[1]}}\nC. {{endings[2]}}\nD. {{endings[3]}}\nAnswer:"  # as MMLU's
)


def task(kind: str, corpus: Path) -> dict[str, Any]:
    """The harness's configuration of a kind, with its items."""
    shared = {"task": kind, "custom_dataset": partial(_splits, kind, corpus), "test_split": "test"}
    examples = {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}, "num_fewshot": SHOTS.get(kind, 0)}
    if kind == "pages":
        texts = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}"}
        return shared | texts | {"metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}]}
    if kind == "texts":
        until = {"until": ["Text:"], "max_gen_toks": GENERATED_TOKENS, "do_sample": False}
        texts = {"doc_to_text": "Text: {{context}}\nWhat follows:", "doc_to_target": "{{endings[label]}}"}
        metrics = {"metric_list": [{"metric": "exact_match"}]}
        return shared | examples | texts | metrics | {"output_type": "generate_until", "generation_kwargs": until}
    choices: dict[str, Any] = {"output_type": "multiple_choice", "doc_to_target": "label"}
    metrics = {"metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    if kind == "few_shot":
        return shared | choices | metrics | examples | {"doc_to_text": _QUESTION, "doc_to_choice": list("ABCD")}
    return shared | choices | metrics | {"doc_to_text": "{{context}}", "doc_to_choice": "endings"}


def _splits(kind: str, corpus: Path, **_: Any) -> dict[str, Dataset]:
    if kind == "pages":
        return {"test": Dataset.from_list([{"page": page} for page in _pages(corpus)])}
    items, shots = list(_items(corpus, *WORDS[kind])), SHOTS.get(kind, 0)
    return {"test": Dataset.from_list(items[shots:]), "dev": Dataset.from_list(items[:shots] or items[:1])}


def _items(corpus: Path, context: int, ending: int) -> Iterator[dict[str, Any]]:
    """Passages of sources in turn: the first of each, the second of each and so on."""
    questions = [_questions(words, context, ending) for words in _english(corpus)]
    for row in range(max(map(len, questions))):
        yield from (of_source[row] for of_source in questions if row < len(of_source))


def _questions(words: list[str], context: int, ending: int) -> list[dict[str, Any]]:
    size = context + ending
    passages = [words[first : first + size] for first in range(0, len(words) - size + 1, size)]
    found = []
    for number, passage in enumerate(passages):
        label = number % NUM_OPTIONS
        others = [passages[(number + 1 + shift) % len(passages)] for shift in range(NUM_OPTIONS)]
        others[label] = passage
        endings = [" ".join(each[context:]) for each in others]
        found.append({"context": " ".join(passage[:context]), "endings": endings, "label": label})
    return found


def _pages(corpus: Path) -> Iterator[str]:
    for words in _english(corpus):
        for first in range(0, len(words), PAGE_WORDS):
            yield " ".join(words[first : first + PAGE_WORDS])


def _english(corpus: Path) -> list[list[str]]:
    """The words of the English sources, held-out documents in their order."""
    opened = Corpus.open(corpus)
    names = [name for name in opened.heldout_names if name.startswith("english")]
    return [[word for text in opened.heldout(name).texts for word in text.decode().split()] for name in names]
