"""XCOPA in the template of mGPT: an item is two whole sentences, premise, connector and choice, in lower case.

The likelier sentence is the answer: summed log-likelihood, not divided by any length. Each language is one line below:
its connectors for the questions "cause" and "effect". Quechua has English ones, and Chinese no spaces.
Source: arXiv 2204.07580, and the evaluation code that its authors published, for details that the paper leaves out.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nemotron4_eval.data.locate import load_from_environment as load

__all__ = ["load"]

Sentences = Callable[[Mapping[str, Any]], list[str]]


def sentences(item: Mapping[str, Any], *, cause: str, effect: str, space: str = " ") -> list[str]:
    """The sentence of each choice."""
    connector = {"cause": cause, "effect": effect}[item["question"]]
    choices = (item["choice1"], item["choice2"])
    joined = [space.join([item["premise"].strip(), connector, choice.strip()]) for choice in choices]
    return [each.replace(". ", " ").lower().capitalize() for each in joined]


et: Sentences = partial(sentences, cause="sest", effect="nõnda")
ht: Sentences = partial(sentences, cause="paske", effect="konsa")
id: Sentences = partial(sentences, cause="karena", effect="jadi")  # noqa: A001  # the language's code
it: Sentences = partial(sentences, cause="perché", effect="così")
qu: Sentences = partial(sentences, cause="because", effect="so")
sw: Sentences = partial(sentences, cause="kwa sababu", effect="hivyo")
ta: Sentences = partial(sentences, cause="ஏனெனில்", effect="அதனால்")
th: Sentences = partial(sentences, cause="เพราะ", effect="ดังนั้น")
tr: Sentences = partial(sentences, cause="çünkü", effect="böyle")
vi: Sentences = partial(sentences, cause="bởi vì", effect="như thế")
zh: Sentences = partial(sentences, cause="因為", effect="這樣", space="")
