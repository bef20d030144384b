"""From logits to the next token.

Invariant: `next_token_distribution` is a probability distribution over the tokens that top_k and then top_p keep;
the probabilities of these tokens keep their ratios.
Source: temperature, top-k (arXiv 1805.04833 section 5.4), nucleus (arXiv 1904.09751 section 3.1).

Shapes: B batch, V vocabulary.
"""

import torch
from torch import Tensor

from nemotron4_infer.sampling.config import SamplingConfig


def next_token_distribution(logits_BV: Tensor, sampling: SamplingConfig) -> Tensor:
    """Probabilities p_BV, fp32, that sampling draws from; temperature must be above 0."""
    assert sampling.temperature > 0, "greedy decoding has no distribution to draw from"
    logits_BV = logits_BV.float()
    # The largest logit is subtracted first: a tiny temperature then underflows to greedy instead of overflowing to NaN.
    # A temperature below the smallest normal fp32 number would divide by zero.
    temperature = max(sampling.temperature, torch.finfo(torch.float32).tiny)
    p_BV = torch.softmax((logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature, dim=-1)
    if sampling.top_k is None and sampling.top_p >= 1:
        return p_BV
    sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        sorted_BV[:, sampling.top_k :] = 0
        sorted_BV /= sorted_BV.sum(-1, keepdim=True)
    if sampling.top_p < 1:
        # A token is kept if the tokens more likely than it have not yet reached top_p; the first is always kept.
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        sorted_BV = torch.where(before_BV < sampling.top_p, sorted_BV, 0)
        sorted_BV /= sorted_BV.sum(-1, keepdim=True)
    return torch.zeros_like(p_BV).scatter_(-1, order_BV, sorted_BV)


def draw(logits_BV: Tensor, sampling: SamplingConfig, generator: torch.Generator | None) -> Tensor:
    """The next token of each sequence, token_B; at temperature 0 the most likely one (the lowest id, if equal)."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    # Drawn on the CPU, so that a seed does not depend on the device's generator.
    p_BV = next_token_distribution(logits_BV, sampling).cpu()
    return torch.multinomial(p_BV, 1, generator=generator)[:, 0].to(logits_BV.device)
