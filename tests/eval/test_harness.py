"""The harness adapter against direct computation, and a task run end to end."""

import json

import pytest
import torch

# lm-eval and the libraries below it warn about themselves; nothing here can act on that.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def engine(loaded):
    from nemotron4_eval.harness.model import EngineLM

    return EngineLM(loaded)


def request(*args):
    from lm_eval.api.instance import Instance

    return Instance(request_type="loglikelihood", doc={}, arguments=args, idx=0)


@torch.no_grad()
def direct(model, ids, num_scored):
    """(summed log-probability, all greedy) of the last `num_scored` of ids."""
    log_p_TV = torch.log_softmax(model(torch.tensor([ids[:-1]]))[0].double(), -1)[-num_scored:]
    targets = ids[-num_scored:]
    greedy = log_p_TV.argmax(-1).tolist() == targets
    return sum(log_p_TV[i, t].item() for i, t in enumerate(targets)), greedy


PAIRS = [
    ("the red fox", " runs over the"),
    ("the old dog sleeps. ", "a tree"),
    ("Straße", " für für"),
    ("", "the bird"),
]


def test_loglikelihood_equals_direct_computation(engine, loaded):
    results = engine.loglikelihood([request(*pair) for pair in PAIRS])
    for (context, continuation), result in zip(PAIRS, results, strict=True):
        # A space at the end of a context begins the continuation's first token.
        context_ids = loaded.tokenizer.encode(context.rstrip(" "))
        ids = [loaded.tokenizer.eos_id, *loaded.tokenizer.encode(context + continuation)]
        log_p, greedy = direct(loaded.model, ids, len(ids) - 1 - len(context_ids))
        assert result[0] == pytest.approx(log_p, rel=1e-5)
        assert result[1] == greedy


def test_the_greedy_continuation_is_recognised(engine, loaded):
    context = "the red fox"
    with torch.no_grad():
        ids = [loaded.tokenizer.eos_id, *loaded.tokenizer.encode(context)]
        best = int(loaded.model(torch.tensor([ids]))[0, -1].argmax())
    [(log_p, greedy)] = engine._loglikelihood_tokens([(("", ""), ids[1:], [best])])
    assert greedy
    assert log_p == pytest.approx(direct(loaded.model, [*ids, best], 1)[0], rel=1e-5)


def test_a_token_across_the_boundary_is_scored_whole(engine, loaded):
    whole = loaded.tokenizer.encode("the river")
    context, continuation = "the riv", "er"
    assert loaded.tokenizer.encode(context) + loaded.tokenizer.encode(continuation) != whole, "the test needs a merge"
    context_ids, continuation_ids = engine._encode_pair(context, continuation)
    assert context_ids + continuation_ids == whole
    assert "er" in loaded.tokenizer.decode(continuation_ids)


def test_a_long_context_loses_its_beginning(engine, loaded):
    context, continuation = ("the red fox runs over the river. " * 20).strip(), " the end"
    [(log_p, _)] = engine.loglikelihood([request(context, continuation)])
    ids = loaded.tokenizer.encode(context + continuation)
    assert len(ids) > 65
    num_scored = len(ids) - len(loaded.tokenizer.encode(context))
    assert log_p == pytest.approx(direct(loaded.model, ids[-65:], num_scored)[0], rel=1e-5)


def test_a_continuation_longer_than_the_context_is_refused(engine):
    with pytest.raises(ValueError, match=r"^suite\.tasks: a continuation of 65 tokens does not fit in the model's"):
        engine._loglikelihood_tokens([(("", ""), [5], [7] * 65)])


def test_rolling_loglikelihood_scores_each_token_of_long_texts(engine, loaded):
    texts = ["the red fox", "a small bird sings near the old tree. " * 12]
    long = [loaded.tokenizer.eos_id, *loaded.tokenizer.encode(texts[1])]
    assert 64 < len(long) - 1 < 64 * 3
    expected, begin = 0.0, 0
    while begin < len(long) - 1:
        end = min(begin + 64, len(long) - 1)
        expected += direct(loaded.model, long[max(0, end - 64) : end + 1], end - begin)[0]
        begin = end
    results = engine.loglikelihood_rolling([request(text) for text in texts])
    short = [loaded.tokenizer.eos_id, *loaded.tokenizer.encode(texts[0])]
    assert results[0] == pytest.approx(direct(loaded.model, short, len(short) - 1)[0], rel=1e-5)
    assert results[1] == pytest.approx(expected, rel=1e-5)


def test_generate_until_stops_before_the_stop_string(engine):
    [text] = engine.generate_until([request("the red fox", {"max_gen_toks": 30})])
    assert text
    stop = text[len(text) // 2]
    [cut] = engine.generate_until([request("the red fox", {"max_gen_toks": 30, "until": [stop]})])
    assert cut == text[: text.index(stop)]


def test_generate_until_fits_long_contexts_in_the_window(engine):
    [text] = engine.generate_until([request("the red fox runs over " * 40, {"max_gen_toks": 1_000, "until": "\0"})])
    assert isinstance(text, str)


def test_a_users_task_file_is_run_on_the_users_data(loaded, tmp_path, capsys):
    from nemotron4_eval.harness.run import run_harness

    data = tmp_path / "items.jsonl"
    items = [{"question": "the red", "answers": [" fox", " κόσμε"], "right": i % 2} for i in range(6)]
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    task = tmp_path / "colours.yaml"
    task.write_text(
        f"task: colours\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs:\n  data_files: {{test: {data}}}\n  cache_dir: {tmp_path / 'cache'}\n"
        f"doc_to_text: question\ndoc_to_choice: answers\ndoc_to_target: right\ntarget_delimiter: ''\n",
        encoding="utf-8",
    )
    results = run_harness(loaded, [str(task)], limit=4)
    # The same question six times, right answers taking turns: exactly half of the first four are right.
    assert results["colours"]["acc"] == 0.5
    assert results["colours"]["num_items"] == 4
    assert results["colours"]["acc_stderr"] > 0
    assert capsys.readouterr().out == ""
