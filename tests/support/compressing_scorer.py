"""A scorer that needs no model: how well zlib, primed with a reference, compresses a text."""

import zlib
from collections.abc import Sequence
from pathlib import Path

from nemotron4_data.curation.quality import Scorer
from nemotron4_data.curation.quality_config import QualityConfig


def compressing_scorer(config: QualityConfig) -> Scorer:
    """The reference is `reference.txt` in the model directory; each call leaves a line in `calls`."""
    directory = Path(config.model_dir)
    reference = (directory / "reference.txt").read_bytes()
    calls = directory.parent / "calls"

    def score(texts: Sequence[str]) -> list[float]:
        with calls.open("a") as file:
            file.write(f"{len(texts)}\n")
        scores = []
        for text in texts:
            beginning = text.encode()[: config.max_tokens]
            compressor = zlib.compressobj(zdict=reference)
            scores.append(8 * len(compressor.compress(beginning) + compressor.flush()) / len(beginning))
        return scores

    return score
