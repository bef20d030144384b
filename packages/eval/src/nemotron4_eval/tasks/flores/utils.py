"""FLORES-101: scores of translations, each of all lines together.

Invariant: spBLEU is of the FLORES-101 SentencePiece model, or it is no number. All are shares of one: sacreBLEU's score
over 100. The harness has no standard errors for such scores, so they are metrics whose names it gives to those.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nemotron4_eval.data.flores_tokenizer import bootstrap_stderr, current_flores_tokenizer, spbleu, spbleu_stderr
from nemotron4_eval.data.locate import load_from_environment as load

__all__ = ["load"]

Pair = tuple[str, str]
"""A translation and the right one."""


def pairs(item: Mapping[str, Any], results: Sequence[str]) -> dict[str, Pair]:
    """What each metric is made of."""
    pair = (results[0].strip(), item["target"])
    return dict.fromkeys(("spbleu", "spbleu_stderr", "chrf++", "chrf++_stderr", "bleu_13a", "bleu_char"), pair)


def corpus_spbleu(lines: Sequence[Pair]) -> float:
    """spBLEU; not a number where the FLORES-101 model was not found."""
    model = current_flores_tokenizer()
    return spbleu(lines, model) / 100 if model else float("nan")


def corpus_spbleu_stderr(lines: Sequence[Pair]) -> float:
    """Standard error of spBLEU."""
    model = current_flores_tokenizer()
    return spbleu_stderr(lines, model) / 100 if model else float("nan")


def corpus_chrf(lines: Sequence[Pair]) -> float:
    """chrF++."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF(word_order=2).corpus_score(*_apart(lines)).score) / 100


def corpus_chrf_stderr(lines: Sequence[Pair]) -> float:
    """Standard error of chrF++."""
    from sacrebleu.metrics.chrf import CHRF

    return bootstrap_stderr(CHRF(word_order=2), lines) / 100


def corpus_bleu_13a(lines: Sequence[Pair]) -> float:
    """BLEU of words as mteval-v13a cuts them."""
    return _bleu(lines, "13a")


def corpus_bleu_char(lines: Sequence[Pair]) -> float:
    """BLEU of characters."""
    return _bleu(lines, "char")


def _bleu(lines: Sequence[Pair], tokenize: str) -> float:
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU(tokenize=tokenize).corpus_score(*_apart(lines)).score) / 100


def _apart(lines: Sequence[Pair]) -> tuple[list[str], list[list[str]]]:
    return [translation for translation, _ in lines], [[right for _, right in lines]]
