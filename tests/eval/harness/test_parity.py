"""Our adapter beside lm-eval's own `hf` backend: one model directory, one task, the same numbers."""

import pytest
from served import tiny_chat_model

from nemotron4_eval.harness.model import EngineLM
from nemotron4_infer import load_model_directory

pytest.importorskip("accelerate", reason="lm-eval's hf backend needs accelerate")
pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

WORDS = ["there", "theme", "the", "of", "day", "return", "x1", "if:", "naïve", "été", "мир"]


def tasks():
    """Few-shot choices, a text to generate and a text to score, as the published tasks have them."""
    from datasets import Dataset

    documents = [
        {
            "question": f"{WORDS[i % 5]} {WORDS[i % 7]} {WORDS[i % 11]}",
            "choices": [f"{WORDS[(i + shift) % 11]} {WORDS[shift]}" for shift in range(4)],
            "right": i % 4,
        }
        for i in range(24)
    ]
    splits = {"test": Dataset.from_list(documents), "dev": Dataset.from_list(documents[::-1])}
    shared = {"custom_dataset": lambda **_: splits, "test_split": "test", "doc_to_text": "{{question}}"}
    few_shot = {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}, "num_fewshot": 3}
    choices = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "right"}
    metrics = {"metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    texts = {"output_type": "generate_until", "doc_to_target": "{{choices[right]}}"}
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question * 40}}"}
    return [
        shared | choices | metrics | {"task": "zero_shot"},
        shared | choices | metrics | few_shot | {"task": "few_shot"},
        shared | texts | few_shot | {"task": "texts", "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 3}},
        shared | rolling | {"task": "rolling", "metric_list": [{"metric": "word_perplexity"}]},
    ]


def found(lm):
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(include_defaults=False).load(tasks())
    results = evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
    return results["results"], {name: [each["resps"] for each in of] for name, of in results["samples"].items()}


def test_hf_and_ours_give_the_same_numbers(tmp_path):
    from lm_eval.models.huggingface import HFLM

    model_dir = str(tiny_chat_model(tmp_path, spare_rows=0))
    loaded = load_model_directory(model_dir, None)
    ours, our_responses = found(EngineLM(loaded, document_start="none"))
    hf = HFLM(model_dir, dtype="float32", device="cpu", prefix_token_id=loaded.tokenizer.eos_id, batch_size=16)
    theirs, their_responses = found(hf)
    for task in ("zero_shot", "few_shot", "texts"):
        assert ours[task] == theirs[task]
    assert ours["rolling"]["word_perplexity,none"] == pytest.approx(theirs["rolling"]["word_perplexity,none"], rel=1e-4)
    for task in ("zero_shot", "few_shot"):
        for mine, its in zip(our_responses[task], their_responses[task], strict=True):
            assert [each[0][1] for each in mine] == [each[0][1] for each in its]
            assert [each[0][0] for each in mine] == pytest.approx([each[0][0] for each in its], abs=1e-4)
    # Bytes that are no character become one sign for all or one for each: hf's tokenizer decodes them its own way.
    texts = zip(our_responses["texts"], their_responses["texts"], strict=True)
    readable = [pair for pair in texts if "�" not in str(pair)]
    assert len(readable) > 4
    assert all(mine == its for mine, its in readable)
