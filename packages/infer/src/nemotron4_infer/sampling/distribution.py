"""From logits to a drawn token, as functions of tensors that treat each row by itself.

Invariant: what is drawn from is the distribution at `temperature` over the tokens that top_k, then top_p and then min_p
keep; the probabilities of these keep their ratios. A row's result is the same in bits whatever the other rows are.
Source: temperature, top-k (arXiv 1805.04833 section 5.4), nucleus (arXiv 1904.09751 section 3.1), min-p
(arXiv 2407.01082 section 3); SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) for the draws.

Shapes: S sequences, V vocabulary, N the most likely tokens of a row.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nemotron4_infer.sampling.config import SamplingConfig

_SORTED_TOKENS = 4096
_GAMMA, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def next_token_distribution(logits_SV: Tensor, sampling: SamplingConfig) -> Tensor:
    """Probabilities p_SV, fp32, that sampling draws from, before penalties; temperature must be above 0."""
    p_SV = kept_probabilities(logits_SV.float(), [sampling] * len(logits_SV))
    return p_SV / p_SV.sum(-1, keepdim=True)


def kept_probabilities(logits_SV: Tensor, samplings: Sequence[SamplingConfig]) -> Tensor:
    """Probabilities p_SV of the tokens that each row's settings keep, 0 for the others; a row may sum to less than 1.

    Logits are fp32, the largest of each row finite; temperatures are above 0.
    """
    assert all(sampling.temperature > 0 for sampling in samplings), "greedy decoding has no distribution to draw from"
    device, vocab_size = logits_SV.device, logits_SV.shape[1]
    # The largest logit is subtracted first: a tiny temperature then underflows to greedy instead of overflowing to NaN.
    # A temperature outside of the normal fp32 numbers would divide by zero or infinity.
    fp32 = torch.finfo(torch.float32)
    temperatures = [min(max(s.temperature, fp32.tiny), fp32.max) for s in samplings]
    temperature_S = torch.tensor(temperatures, dtype=torch.float32, device=device)
    p_SV = (logits_SV - logits_SV.amax(-1, keepdim=True)).div_(temperature_S[:, None]).softmax(-1)
    if not any(map(is_filtered, samplings)):
        return p_SV
    off = vocab_size + 1
    top_k_S = torch.tensor([min(s.top_k or off, off) for s in samplings], device=device)
    top_p = [s.top_p if s.top_p < 1 else math.inf for s in samplings]
    top_p_S = torch.tensor(top_p, dtype=torch.float64, device=device)
    min_p_S = torch.tensor([s.min_p for s in samplings], dtype=torch.float32, device=device)
    # Mostly the first few thousand tokens decide, which is cheaper than sorting all.
    for num_sorted in (max(_SORTED_TOKENS, *(1 + (s.top_k or 0) for s in samplings)), vocab_size):
        sorted_SN = most_likely(p_SV, min(num_sorted, vocab_size))
        count_S = num_kept(sorted_SN, top_k_S, top_p_S, min_p_S)
        if num_sorted >= vocab_size or int(count_S.max()) < num_sorted:
            break
    return keep_most_likely(p_SV, sorted_SN, count_S)


def is_filtered(sampling: SamplingConfig) -> bool:
    """Whether some tokens cannot be drawn."""
    return sampling.top_k is not None or sampling.top_p < 1 or sampling.min_p > 0


def most_likely(p_SV: Tensor, count: int) -> Tensor:
    """The `count` largest numbers of each row, the largest first."""
    if p_SV.device.type != "cpu":
        return p_SV.topk(count).values
    # NumPy sorts numbers without their indices by vector instructions: 20 times as fast as torch.
    ascending = np.sort(np.partition(p_SV.detach().numpy(), -count, axis=-1)[:, -count:], axis=-1)
    return torch.from_numpy(ascending[:, ::-1].copy())


def num_kept(sorted_SN: Tensor, top_k_S: Tensor, top_p_S: Tensor, min_p_S: Tensor) -> Tensor:
    """How many of a row's most likely tokens are kept, at least 1; N says that more than these N may be.

    Where they are off, top_k is above V and top_p is infinite. N must be above each top_k that is on, or V.
    """
    sums_SN, num_sorted = sorted_SN.cumsum(-1, dtype=torch.float64), sorted_SN.shape[1]
    # Without top_k the total counts as 1, so that a row's result does not depend on how many tokens were sorted.
    sum_of_top_k_S = sums_SN.gather(1, (top_k_S[:, None] - 1).clamp(max=num_sorted - 1))[:, 0]
    total_S = torch.where(top_k_S <= num_sorted, sum_of_top_k_S, 1.0)
    # A token is kept if the tokens more likely than it have not yet reached top_p; the first is always kept.
    by_top_p_S = torch.searchsorted(sums_SN, (top_p_S * total_S)[:, None])[:, 0] + 1
    by_min_p_S = (sorted_SN >= min_p_S[:, None] * sorted_SN[:, :1]).sum(-1)
    return torch.minimum(torch.minimum(by_top_p_S, by_min_p_S), top_k_S).clamp(max=num_sorted)


def keep_most_likely(p_SV: Tensor, sorted_SN: Tensor, count_S: Tensor) -> Tensor:
    """p_SV with all but the count_S most likely tokens of each row set to 0; of equal ones the lowest ids are kept."""
    last_S1 = sorted_SN.gather(1, count_S[:, None] - 1)
    kept_SV = p_SV.masked_fill(p_SV < last_S1, 0)
    following_S1 = sorted_SN.gather(1, count_S[:, None].clamp(max=sorted_SN.shape[1] - 1))
    is_tied_S = (following_S1 == last_S1)[:, 0] & (count_S < sorted_SN.shape[1]) & (last_S1[:, 0] > 0)
    for row in is_tied_S.nonzero()[:, 0].tolist():
        equal = (p_SV[row] == last_S1[row]).nonzero()[:, 0]
        num_above = int((p_SV[row] > last_S1[row]).sum())
        kept_SV[row, equal[int(count_S[row]) - num_above :]] = 0
    return kept_SV


def draw(p_SV: Tensor, uniform_S: Tensor) -> Tensor:
    """The id of each row at which the sum of its probabilities passes uniform_S, fp64 in [0, 1), times their total."""
    sums_SV = p_SV.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(sums_SV, (uniform_S * sums_SV[:, -1])[:, None], right=True)[:, 0]


def uniform(seed: int, choice: int, step: int) -> float:
    """A number in [0, 1), the same on every machine: the draw of token number `step` of choice number `choice`."""
    stream = _scramble(_scramble(seed) + choice)
    return (_scramble(stream + step) >> 11) * 2.0**-53


def _scramble(number: int) -> int:
    z = (number + 1) * _GAMMA & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31
