"""Two processes, each with half of every layer, against the whole model in one."""

import pytest
import torch

from nemotron4_infer.engine.batch import Span
from nemotron4_infer.engine.config import EngineConfig
from nemotron4_infer.parallel import TensorParallelRunner, check_tensor, start
from nemotron4_model import DType, load_config, load_pretrained


@torch.no_grad()
def test_two_processes_give_the_tokens_of_one(model_dir):
    model = load_pretrained(model_dir).eval()
    longest, vocab_size = model.config.max_sequence_length, model.config.vocab_size
    generator = torch.Generator().manual_seed(1)
    texts = {
        key: torch.randint(vocab_size, (length,), generator=generator).tolist() for key, length in ((7, 5), (8, 21))
    }
    runner = start(model_dir, DType.fp32, EngineConfig(tensor=2, max_running=3))
    try:
        for page, (key, ids) in enumerate(texts.items()):
            runner.open(key, longest, [page], 0)
            (logits_TV,) = runner.run([Span(key, 0, ids, len(ids), True)])
            torch.testing.assert_close(logits_TV, model(torch.tensor([ids]))[0], rtol=1e-4, atol=1e-4)
            ids.append(int(logits_TV[-1].argmax()))
        for _ in range(8):
            spans = [Span(key, len(ids) - 1, ids[-1:], 1, False) for key, ids in texts.items()]
            for ids, logits_TV in zip(texts.values(), runner.run(spans), strict=True):
                ids.append(int(logits_TV[0].argmax()))
        runner.close(7)
        many = runner.run([Span(8, 0, texts[8][:21], 1, True)] * 30)  # more integers than a message's first part
        torch.testing.assert_close(many[-1][0], model(torch.tensor([texts[8][:21]]))[0, -1], rtol=1e-4, atol=1e-4)
    finally:
        runner.shut_down()
    for ids in texts.values():
        expected_TV = model(torch.tensor([ids[:-1]]))[0]
        assert ids[-9:] == expected_TV[-9:].argmax(-1).tolist()


def test_what_cannot_be_spread_evenly_is_refused(model_dir):
    with pytest.raises(ValueError) as refusal:
        check_tensor(load_config(model_dir), 3)
    assert str(refusal.value) == "engine.tensor (3): must divide model.num_key_value_heads (2); lower it"


def test_after_a_fault_no_call_waits_for_ranks_that_are_out_of_step():
    class Faulty:
        page_tokens, num_pages, max_sequence_length, vocab_size = 64, 1, 64, 330

        def run(self, spans):
            raise RuntimeError("out of memory")

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    runner = TensorParallelRunner(Faulty())
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            runner.run([])
        with pytest.raises(RuntimeError, match="ranks are out of step since the fault before; start again"):
            runner.close(0)
    finally:
        runner.shut_down()
