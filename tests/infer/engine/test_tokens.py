"""Greedy tokens of the engine against transformers' `generate` on the same directory."""

import random

import pytest
import torch

from nemotron4_data import Tokenizer
from nemotron4_infer import SamplingConfig
from nemotron4_infer.engine.core import Engine
from nemotron4_infer.engine.request import FinishReason, Request
from nemotron4_infer.engine.step import CpuRunner
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.weights.load import load_engine_weights
from nemotron4_infer.weights.packed import pack

transformers = pytest.importorskip("transformers")
NEW_TOKENS = 8


def test_greedy_tokens_of_32_prompts_in_one_batch_are_those_of_transformers(model_dir):
    tokenizer = Tokenizer(model_dir / "tokenizer.model")
    draw = random.Random(0)
    prompts = [tuple(draw.randrange(4, tokenizer.vocab_size) for _ in range(length)) for length in range(1, 33)]
    weights = load_engine_weights(model_dir, dtype=torch.float32, device=torch.device("cpu"), make=pack)
    runner = CpuRunner(weights, num_pages=256, page_tokens=8)
    engine = Engine(runner, tokenizer, EngineConfig(max_running=32, step_tokens=1_024))
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, ignore_eos=True)
    numbers = [engine.add(Request(prompt_ids=prompt, sampling=sampling)) for prompt in prompts]
    found = {number: [] for number in numbers}
    most_running = 0
    while engine.has_work:
        for delta in engine.step():
            found[delta.request] += [token.id for token in delta.tokens]
            assert delta.finish in (None, FinishReason.length)
        most_running = max(most_running, engine.statistics().running)
    assert most_running == 32

    theirs = transformers.NemotronForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for number, prompt in zip(numbers, prompts, strict=True):
        expected = theirs.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()
        assert found[number] == expected, f"after a prompt of {len(prompt)} tokens"
    assert len({tuple(tokens) for tokens in found.values()}) > 16, "the prompts make a difference"
