"""Autoregressive generation: prefill the prompt once, then one token per step.

Invariant: greedy generation equals repeated argmax over full forward passes without a cache.
"""

from collections.abc import Generator, Sequence
from enum import Enum

import torch

from nemotron4_common.rules import require
from nemotron4_infer.cache import KVCache
from nemotron4_infer.sampling import SamplingConfig
from nemotron4_infer.sampling.choose import SamplerState, choose
from nemotron4_model import Transformer


class StopReason(Enum):
    """Why generation ended."""

    end_of_text = "the model ended the text"
    max_new_tokens = "sampling.max_new_tokens reached"
    context_full = "the model's context is full"


def generate(
    model: Transformer,
    prompt_ids: Sequence[int],
    sampling: SamplingConfig,
    eos_id: int,
    vocab_size: int | None = None,
) -> Generator[int, None, StopReason]:
    """Stream new token ids as they are chosen, without the final end-of-sequence id.

    Ids of `vocab_size` and above, for which the tokenizer has no piece, are never chosen. The generator's return value
    is the reason it stopped. Raises ValueError immediately if the prompt is empty or leaves no room for a new token in
    `model.max_sequence_length`.
    """
    longest = model.config.max_sequence_length
    num_tokens, way_out = len(prompt_ids), "shorten the prompt or use a model with a longer context"
    require(num_tokens > 0, "prompt", "''", "must have at least one token")
    rule = f"must be shorter than the model's context of {longest} tokens; {way_out}"
    require(num_tokens < longest, "prompt", f"{num_tokens} tokens", rule)
    return _steps(model, prompt_ids, sampling, eos_id, vocab_size)


@torch.inference_mode()
def _steps(
    model: Transformer, prompt_ids: Sequence[int], sampling: SamplingConfig, eos_id: int, vocab_size: int | None
) -> Generator[int, None, StopReason]:
    longest = model.config.max_sequence_length
    parameter = next(model.parameters())
    # The last token drawn is never fed back, hence the -1.
    capacity = max(1, min(len(prompt_ids) + sampling.max_new_tokens - 1, longest))
    cache = KVCache(model.config, capacity=capacity, dtype=parameter.dtype, device=parameter.device)
    state = SamplerState(
        sampling=sampling, choice=0, vocab_size=vocab_size or model.config.vocab_size, prompt_ids=prompt_ids
    )
    tokens_BT = torch.tensor([list(prompt_ids)], device=parameter.device)
    for _ in range(sampling.max_new_tokens):
        if cache.length + tokens_BT.shape[1] > longest:
            return StopReason.context_full
        position_BT = cache.positions(tokens_BT.shape[1])
        logits_BV = model(tokens_BT, position_BT=position_BT, cache=cache, last_only=True)[:, -1]
        token = choose(logits_BV, [state])[0].id
        if token == eos_id:
            return StopReason.end_of_text
        yield token
        tokens_BT = torch.tensor([[token]], device=parameter.device)
    return StopReason.max_new_tokens
