"""Our own small model as the scorer of the quality filter: entry point `nemotron` of the group `nemotron4.scorers`.

Invariant: a text's score depends on the text, the model and `max_tokens`; batches and processes move it by rounding
only. Weights are fp32 on a CPU, and one thread works, so that every process of a pool computes the same.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from nemotron4_data.curation.quality_config import QualityConfig
from nemotron4_infer.likelihood import document_nll
from nemotron4_infer.model_directory import LoadedModel, load_model_directory

# SentencePiece's limit on a piece: this many characters of text hold the first tokens whatever they are.
_MAX_PIECE_CHARACTERS = 16
# On one core a small model was a third faster with batches whose activations stay in its cache.
_TOKENS_PER_BATCH = {"cpu": 1_024}


def nemotron_scorer(config: QualityConfig) -> "NemotronScorer":
    """The scorer of a model directory. ValueError when the directory is not a model's."""
    try:
        loaded = load_model_directory(config.model_dir, None)
    except ValueError as error:
        raise ValueError(f"curation.quality.{error}") from error
    return NemotronScorer(loaded, config.max_tokens)


class NemotronScorer:
    """Bits per byte of texts under a model, from the beginning of a document."""

    def __init__(self, loaded: LoadedModel, max_tokens: int) -> None:
        self._loaded = loaded
        self._max_tokens = max_tokens

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Bits per byte of the first `max_tokens` tokens of each text, none of which is empty.

        A text longer than the model's context is scored in windows that follow one another, the last one full.
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
