"""Two processes, each with half of every layer, against the whole model in one."""

import multiprocessing

import pytest
import torch

from nemotron4_infer import GenerateJob, SamplingConfig, run_generate
from nemotron4_infer.engine.parallel import TensorParallelRunner, check_tensor
from nemotron4_infer.engine_config import EngineConfig, Quantisation
from nemotron4_model import load_config


def test_two_processes_give_the_texts_of_one_and_end(model_dir, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    # So many that a step's call takes more integers than a message's first part.
    prompts.write_text("".join(f"the {'red fox and the ' * (i % 3)}dog {i}\n" for i in range(40)))
    written = []
    for tensor in (1, 2):
        out = tmp_path / f"{tensor}.jsonl"
        engine = EngineConfig(tensor=tensor, max_running=40, cache_tokens=40 * 64)
        job = {"model_dir": str(model_dir), "prompts_file": str(prompts), "out": str(out), "engine": engine}
        run_generate(GenerateJob(**job, sampling=SamplingConfig(max_new_tokens=8, ignore_eos=True)))
        written.append(out.read_text())
    assert written[1] == written[0]
    assert "on each of 2 processes, of which" in capsys.readouterr().err
    assert not torch.distributed.is_initialized()
    assert multiprocessing.active_children() == []


def test_what_cannot_be_spread_evenly_is_refused(model_dir):
    with pytest.raises(ValueError) as refusal:
        check_tensor(load_config(model_dir), 3)
    assert str(refusal.value) == "engine.tensor (3): must divide model.num_key_value_heads (2); lower it"


def test_quantised_weights_are_not_spread():
    with pytest.raises(ValueError) as refusal:
        EngineConfig(tensor=2, quantization=Quantisation.int4)
    assert str(refusal.value) == (
        "engine.tensor (2): must be 1 with engine.quantization=int4; set one of them to its default"
    )


def test_after_a_fault_no_call_waits_for_ranks_that_are_out_of_step():
    class Faulty:
        page_tokens, num_pages, max_sequence_length, vocab_size, equal_bits = 64, 1, 64, 330, True

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
