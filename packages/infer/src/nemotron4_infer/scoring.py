"""A small Nemotron-4 model as scorer of the quality filter: entry point `nemotron` of the group `nemotron4.scorers`.

Invariant: a text's score depends on the text, the model and `max_tokens`; batching and processes change it only by
rounding. On a CPU, weights are fp32 and one thread computes, so that all processes of a pool get the same score.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from nemotron4_data.curation.quality_config import QualityConfig
from nemotron4_infer.likelihood import document_nll
from nemotron4_infer.model_directory import LoadedModel, load_model_directory

# SentencePiece's limit on a piece: n times as many characters are sure to contain the first n tokens.
_MAX_PIECE_CHARACTERS = 16
# On one core a small model ran a third faster with batches whose activations fit in the CPU cache.
_TOKENS_PER_BATCH = {"cpu": 1_024}


def nemotron_scorer(config: QualityConfig) -> "NemotronScorer":
    """The scorer that uses a model directory. ValueError if the directory does not contain a model."""
    try:
        loaded = load_model_directory(config.model_dir, None)
    except ValueError as error:
        raise ValueError(f"curation.quality.{error}") from error
    return NemotronScorer(loaded, config.max_tokens)


class NemotronScorer:
    """Bits per byte of the beginnings of texts under a model."""

    def __init__(self, loaded: LoadedModel, max_tokens: int) -> None:
        self._loaded = loaded
        self._max_tokens = max_tokens

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Bits per byte of the first `max_tokens` tokens of each text; no text may be empty.

        A text longer than the model's context is scored in consecutive windows; the last is full and overlaps.
        """
        tokenizer, model = self._loaded.tokenizer, self._loaded.model
        limit = self._max_tokens
        documents = [np.array(tokenizer.encode(text[: _MAX_PIECE_CHARACTERS * limit])[:limit]) for text in texts]
        num_bytes = [len(tokenizer.decode_bytes(tokens.tolist())) for tokens in documents]
        window = model.config.max_sequence_length
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            nll_nats = document_nll(
                model,
                documents,
                tokenizer.eos_id,
                window=window,
                stride=window,
                device=self._loaded.device,
                tokens_per_batch=_TOKENS_PER_BATCH.get(self._loaded.device.type),
            )
        finally:
            torch.set_num_threads(num_threads)
        return [float(nats) / math.log(2) / size for nats, size in zip(nll_nats, num_bytes, strict=True)]
