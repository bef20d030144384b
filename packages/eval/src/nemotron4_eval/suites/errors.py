"""Standard errors of scores, and differences of two evaluations of the same items.

Invariant: what cannot be estimated, from fewer than two questions, is None, never 0.
Source: arXiv 2411.00640: items are a sample of the questions that could have been asked; scores of one question in
several languages are not independent; a difference on the same items is estimated from the differences of each.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt

Scores = Mapping[Hashable, float]
"""Question to score."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The second evaluation minus the first, on the items that both scored."""

    difference: float
    """Of means."""
    stderr: float | None
    items: int
    gained: int
    """Items whose score rose: answered rightly where it was wrongly."""
    lost: int
    """Items whose score fell."""


def mean(scores: Sequence[float]) -> float:
    """Of at least one score."""
    return fsum(scores) / len(scores)


def mean_stderr(scores: Sequence[float]) -> float | None:
    """Standard error of the mean over independent items; of pass@k, where scores are its estimates, one a problem."""
    return clustered_stderr([dict(enumerate(scores))])


def clustered_stderr(parts: Sequence[Scores]) -> float | None:
    """Standard error of the mean over the means of parts, such as languages, that share questions.

    Scores of one question in several parts may depend on each other in any way, questions do not. With one part it is
    the standard error of its mean.
    """
    assert all(parts), "a part without scores has no mean"
    influences: dict[Hashable, list[float]] = defaultdict(list)
    for part in parts:
        part_mean = mean(list(part.values()))
        for question, score in part.items():
            influences[question].append((score - part_mean) / (len(part) * len(parts)))
    clusters = len(influences)
    if clusters < 2:
        return None
    return sqrt(clusters / (clusters - 1) * fsum(fsum(each) ** 2 for each in influences.values()))


def independent_stderr(stderrs: Sequence[float | None], weights: Sequence[float] | None = None) -> float | None:
    """Standard error of a mean of scores whose items have nothing in common, such as the tasks of Table 3.

    `weights` are in proportion, equal by default. None if one of the errors is.
    """
    weights = weights or [1.0] * len(stderrs)
    known = [error for error in stderrs if error is not None]
    if not known or len(known) < len(stderrs):
        return None
    return sqrt(fsum((w * e) ** 2 for w, e in zip(weights, known, strict=True))) / fsum(weights)


def dependent_stderr(stderrs: Sequence[float | None]) -> float | None:
    """The most that the standard error of a mean of scores can be, whatever they have in common.

    For scores of whole corpora of the same lines, such as BLEU, which no item has a part of. None if one of the errors
    is.
    """
    known = [error for error in stderrs if error is not None]
    return mean(known) if known and len(known) == len(stderrs) else None


def paired_difference(first: Sequence[Scores], second: Sequence[Scores]) -> Difference:
    """The mean over parts of the second evaluation minus that of the first, by the items that both scored.

    Parts are languages that share questions, in the same order, or one part alone. ValueError if a part has no common
    item.
    """
    differences = []
    for before, after in zip(first, second, strict=True):
        common = before.keys() & after.keys()
        if not common:
            raise ValueError(
                "the two evaluations have no item in common; compare evaluations of the same suite and items"
            )
        differences.append({question: after[question] - before[question] for question in common})
    changes = [change for part in differences for change in part.values()]
    return Difference(
        difference=mean([mean(list(part.values())) for part in differences]),
        stderr=clustered_stderr(differences),
        items=len(changes),
        gained=sum(change > 0 for change in changes),
        lost=sum(change < 0 for change in changes),
    )
