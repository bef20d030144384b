"""The harness's own client, `local-completions`, on our server: the numbers of our adapter."""

import pytest
from served import engine_thread, serving, tiny_chat_model

from nemotron4_infer import load_model_directory

pytest.importorskip("tenacity")
pytest.importorskip("fastapi")
pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PAIRS = [("there", " theme"), ("the of", " day day"), ("", "return"), ("naïve été", " x1 мир"), ("x1" * 80, "if:" * 20)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("served"), spare_rows=0)


def test_local_completions_gives_our_adapters_numbers(model_dir):
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from nemotron4_eval.harness.model import EngineLM

    ours = EngineLM(load_model_directory(str(model_dir), None))
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(PAIRS)]
    generation = [Instance("generate_until", {}, ("there", {"until": ["e"], "max_gen_toks": 20}), 0)]
    expected, text = ours.loglikelihood(requests), ours.generate_until(generation)
    thread = engine_thread(model_dir)
    with serving(thread, model_dir) as server:
        client = LocalCompletionsAPI(
            base_url=f"{server.url}/v1/completions",
            model="tiny",
            tokenizer=str(model_dir),
            tokenizer_backend="huggingface",
            custom_prefix_token_id=server.served.tokenizer.eos_id,
            max_length=256,
        )
        found = client.loglikelihood(requests, disable_tqdm=True)
        assert client.generate_until(generation, disable_tqdm=True) == text
    thread.close()
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], abs=1e-4)
