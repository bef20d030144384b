"""The language-model quality filter: score every document, cut each language's scores into buckets, keep some.

Two passes over work shards. Scoring writes one file of scores for each shard, so that a rerun scores only what is
missing; thresholds are exact percentiles of all scores of a language; then the row-wise step drops documents.

Invariant: the scores of a shard are a function of its bytes, the configuration and the scorer's files; if any of these
changes, the score file is rebuilt. What is not judged (another domain, no text) is kept.

Source: CCNet, arXiv 1911.00359, section 3.4. There a 5-gram model of each language's Wikipedia scores paragraphs; here
any scorer of the entry-point group `nemotron4.scorers`, by default a small model of this project.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import entry_points
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from nemotron4_common.rules import require
from nemotron4_common.staging import file_sha256, value_sha256, write_file

from ..document_fields import Document
from ..documents import read_lines
from ..executor import Executor
from ..languages import language_of
from ..manifest import files_below, hash_files
from .quality_config import BUCKETS, QualityConfig

SCORER_GROUP = "nemotron4.scorers"
_TEXTS_PER_CALL = 256
# Differences between processors are smaller than this; they must not move a document across a threshold.
_DECIMALS = 4

Scorer = Callable[[Sequence[str]], Sequence[float]]
"""Bits per byte of each non-empty text; lower is likelier."""
T = TypeVar("T")
R = TypeVar("R")


def load_scorer(config: QualityConfig) -> Scorer:
    """The scorer of `config.scorer`, made by its factory. ValueError if none of that name is installed."""
    return _factory(config)(config)


def check_scorer(config: QualityConfig) -> None:
    """Raise ValueError unless the scorer is installed and its model's directory exists; loads no model."""
    rule = "is not a directory; train and export a scorer with `nemotron4 train experiment=quality_scorer`"
    require(Path(config.model_dir).is_dir(), "curation.quality.model_dir", config.model_dir, rule)
    _factory(config)


def _factory(config: QualityConfig) -> Callable[[QualityConfig], Scorer]:
    module, colon, attribute = config.scorer.partition(":")
    if colon:
        try:
            return cast(Callable[[QualityConfig], Scorer], getattr(import_module(module), attribute))
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"curation.quality.scorer ({config.scorer}): {error}; name a factory of an installed module"
            ) from error
    installed = {point.name: point for point in entry_points(group=SCORER_GROUP)}
    known = ", ".join(sorted(installed))
    rule = f"is not installed; install nemotron4-infer for `nemotron`, or name one of [{known}] or a module:factory"
    require(config.scorer in installed, "curation.quality.scorer", config.scorer, rule)
    return cast(Callable[[QualityConfig], Scorer], installed[config.scorer].load())


@dataclass(frozen=True)
class _Task:
    shard: Path
    output: Path
    config: QualityConfig
    scorer_sha256: str


def score_shards(shards: Sequence[Path], config: QualityConfig, work: Path, executor: Executor) -> list[Path]:
    """Score every document; one file per shard below `work`, in their order. Valid files are kept.

    ValueError if the scorer or its model directory is missing.
    """
    check_scorer(config)
    model = Path(config.model_dir)
    judged = {key: getattr(config, key) for key in ("scorer", "domains", "max_tokens")}
    files = hash_files(model, files_below(model))
    scorer_sha256 = value_sha256({"config": judged, "files": files})
    work.mkdir(parents=True, exist_ok=True)
    tasks = [
        _Task(shard, work / f"{number:06}.scores.npz", config, scorer_sha256) for number, shard in enumerate(shards)
    ]
    return list(executor.map(_score_shard, tasks))


def _score_shard(task: _Task) -> Path:
    key = value_sha256([file_sha256(task.shard), task.scorer_sha256])
    if task.output.exists() and ShardScores.load(task.output).key == key:
        return task.output
    scorer = load_scorer(task.config)
    languages: list[str] = []
    scores: list[float] = []
    pending: dict[int, str] = {}

    def score_pending() -> None:
        for number, score in zip(pending, scorer(list(pending.values())), strict=True):
            scores[number] = score
        pending.clear()

    for line in filter(None, map(bytes.strip, read_lines(task.shard))):
        document: Document = json.loads(line)
        languages.append(language_of(document))
        scores.append(np.nan)
        if document["source"].split("/")[0] in task.config.domains and document["text"]:
            pending[len(scores) - 1] = document["text"]
        if len(pending) == _TEXTS_PER_CALL:
            score_pending()
    if pending:
        score_pending()
    ShardScores(key, np.array(languages, dtype=np.str_), np.round(scores, _DECIMALS)).save(task.output)
    return task.output


@dataclass(frozen=True)
class ShardScores:
    """For each document of a work shard, in order: its language and its bits per byte (nan if not judged)."""

    key: str
    languages: NDArray[np.str_]
    bits_per_byte: NDArray[np.float64]

    @classmethod
    def load(cls, path: Path) -> ShardScores:
        """Read one file of `score_shards`."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(str(arrays["key"]), arrays["languages"], arrays["bits_per_byte"])

    def save(self, path: Path) -> None:
        """Write it atomically."""
        buffer = BytesIO()
        np.savez(buffer, key=np.array(self.key), languages=self.languages, bits_per_byte=self.bits_per_byte)
        write_file(path, buffer.getvalue())

    def annotate(self, number: int, document: Document) -> None:
        """Add its score to document `number` of the shard, for `QualityFilter`; one not judged gets none."""
        if not np.isnan(score := self.bits_per_byte[number]):
            document["bits_per_byte"] = float(score)


def thresholds(scores: Iterable[Path], config: QualityConfig) -> dict[str, tuple[float, float]]:
    """The highest bits per byte of head and of middle in each language, from all its scores (8 bytes per document)."""
    return {
        language: cast(
            tuple[float, float], tuple(np.percentile(found, config.percentiles, method="inverted_cdf").tolist())
        )
        for language, found in _by_language(scores).items()
    }


def _by_language(scores: Iterable[Path]) -> dict[str, NDArray[np.float64]]:
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for path in scores:
        shard = ShardScores.load(path)
        judged = ~np.isnan(shard.bits_per_byte)
        for language in np.unique(shard.languages[judged]).tolist():
            parts.setdefault(language, []).append(shard.bits_per_byte[judged & (shard.languages == language)])
    return {language: np.concatenate(found) for language, found in sorted(parts.items())}


def bucket_of(score: float, limits: tuple[float, float]) -> str:
    """head, middle or tail."""
    return BUCKETS[sum(score > limit for limit in limits)]


class QualityFilter:
    """The row-wise step: drops the documents whose bucket is not kept; those without a score pass."""

    name = "lm_quality"

    def __init__(self, limits: Mapping[str, tuple[float, float]], config: QualityConfig) -> None:
        self.domains = config.domains
        self._limits = dict(limits)
        self._keep = frozenset(config.keep)

    def __call__(self, document: Document) -> str | None:
        """None to keep it, otherwise the reason: its bucket and the threshold; the score stays in the document."""
        score = document.get("bits_per_byte")
        if score is None:
            return None
        language = language_of(document)
        head, middle = self._limits[language]
        bucket = bucket_of(score, (head, middle))
        if bucket in self._keep:
            return None
        beyond = {
            "head": f"at most {head:.4g}",
            "middle": f"above {head:.4g}",
            "tail": f"above {middle:.4g}",
        }
        return f"{bucket} of {language}: {beyond[bucket]} bits per byte"


def quality_facts(
    scores: Iterable[Path], limits: Mapping[str, tuple[float, float]], config: QualityConfig
) -> dict[str, Any]:
    """What the filter did, for the manifest and its report: the limits and documents of each bucket by language."""
    languages = {}
    for language, found in _by_language(scores).items():
        places = np.searchsorted(np.array(limits[language]), found)  # number of limits below the score
        counts = np.bincount(places, minlength=len(BUCKETS)).tolist()
        languages[language] = {
            "head_max": limits[language][0],
            "middle_max": limits[language][1],
            "documents": dict(zip(BUCKETS, counts, strict=True)),
        }
    return {**asdict(config), "languages": languages}
