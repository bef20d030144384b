"""The likelihood of documents under a model: the sum of token log-probabilities that evaluation and filtering share.

Invariant: every token of every document counts once, whatever the window, stride or batch size; padding never counts.
Source: sliding windows as in arXiv 2012.15832 section 2.

Shapes: B windows, T longest window of the batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nemotron4_infer.windows import Window, batch_windows, document_windows, window_arrays
from nemotron4_model import Transformer

TOKENS_PER_BATCH = 8_192
"""Tokens of one forward pass: enough to keep a device busy."""

Progress = Callable[[int, int], None]
"""Called with (tokens scored so far, total tokens)."""


def document_nll(
    model: Transformer,
    documents: Sequence[NDArray[np.integer]],
    eos_id: int,
    *,
    window: int,
    stride: int,
    device: torch.device | str,
    length_multiple: int = 1,
    tokens_per_batch: int | None = None,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Summed negative log-likelihood, in nats, of each document; `tokens_per_batch` defaults to TOKENS_PER_BATCH.

    With `part` (i, n), of part i alone: batches i, i + n, ..., so that the sums of all n parts add up. The parts make
    equally many forward passes, as the ranks of a sharded model must: some repeat the last batch, which is not counted.
    """
    windows = [w for i, tokens in enumerate(documents) for w in document_windows(i, len(tokens), window, stride)]
    return window_nll(
        model,
        documents,
        windows,
        eos_id,
        device=device,
        length_multiple=length_multiple,
        tokens_per_batch=tokens_per_batch,
        part=part,
        progress=progress,
    )


def window_nll(
    model: Transformer,
    documents: Sequence[NDArray[np.integer]],
    windows: Sequence[Window],
    eos_id: int,
    *,
    device: torch.device | str,
    length_multiple: int = 1,
    tokens_per_batch: int | None = None,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Summed negative log-likelihood, in nats, of each document's tokens that the windows score; see `document_nll`."""
    total, done = sum(window.end - window.scored_from for window in windows), 0
    nll_nats = np.zeros(len(documents))
    was_training = model.training
    model.eval()
    try:
        # no_grad rather than inference_mode: a sharded trainer cannot use inference tensors in a later step.
        with torch.no_grad():
            batches = list(batch_windows(windows, tokens_per_batch or TOKENS_PER_BATCH))
            for index in range(part[0], part[0] + len(batches), part[1]):
                batch = batches[min(index, len(batches) - 1)]
                inputs_BT, targets_BT, scored_BT = window_arrays(batch, documents, eos_id, length_multiple)
                loss = model(torch.from_numpy(inputs_BT).to(device), torch.from_numpy(targets_BT).to(device))
                if index >= len(batches):
                    continue
                nll_B = loss.nll_BT.double().cpu().masked_fill(~torch.from_numpy(scored_BT), 0).sum(1).numpy()
                np.add.at(nll_nats, [w.document for w in batch], nll_B)
                done += int(scored_BT.sum())
                if progress is not None:
                    progress(done, total)
    finally:
        model.train(was_training)
    return nll_nats
