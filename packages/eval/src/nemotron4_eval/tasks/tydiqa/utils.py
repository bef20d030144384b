"""TyDiQA-GoldP: exact match and F1 as SQuAD's official script counts them, for every language alike.

Source: arXiv 2003.05002, and rajpurkar.github.io/SQuAD-explorer.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nemotron4_eval.data.locate import load_from_environment as load

__all__ = ["load"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in the official script


def first_answer(item: Mapping[str, Any]) -> str:
    """The answer shown in an example."""
    answer: str = item["answers"]["text"][0]
    return answer


def scores(item: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The best exact match and the best F1 over the right answers."""
    answer, right = normalised(results[0]), [normalised(each) for each in item["answers"]["text"]]
    return {"exact_match": float(answer in right), "f1": max(f1(answer, each) for each in right)}


def normalised(text: str) -> str:
    """In lower case, without punctuation and the English articles, words apart by one space."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer: str, right: str) -> float:
    """Of the words of two normalised texts; 0 without a common one."""
    answer_words, right_words = answer.split(), right.split()
    common = sum((Counter(answer_words) & Counter(right_words)).values())
    return 2 * common / (len(answer_words) + len(right_words)) if common else 0.0
