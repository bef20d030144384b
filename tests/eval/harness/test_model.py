"""The harness adapter against direct computation."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from nemotron4_eval.harness.model import EngineLM, request_name
from nemotron4_infer import SamplingConfig, generate

# lm-eval and the libraries below it warn about themselves; nothing here can act on that.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def engine(loaded):
    return EngineLM(loaded)


def request(*args):
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


class Recorder(EngineLM):
    """Keeps what it is asked for instead of scoring it."""

    def _loglikelihood_tokens(self, requests, **_):
        self.asked = requests
        return [(0.0, True)] * len(requests)


@pytest.fixture(scope="module")
def recorder(loaded):
    return Recorder(loaded)


@settings(max_examples=60)
@given(st.text(max_size=12), st.text(min_size=1, max_size=12))
def test_any_text_is_split_as_the_harness_splits_it(recorder, loaded, context, continuation):
    encode = loaded.tokenizer.encode
    head = context.rstrip()
    expected = encode(head), encode(context + continuation)[len(encode(head)) :]
    if not context:
        expected = [loaded.tokenizer.eos_id], encode(continuation)
    recorder.loglikelihood([request(context, continuation)])
    assert recorder.asked == [((context, continuation), *expected)]


def test_a_long_context_loses_its_beginning(engine, loaded):
    context, continuation = ("the red fox runs over the river. " * 20).strip(), " the end"
    [(log_p, _)] = engine.loglikelihood([request(context, continuation)])
    ids = loaded.tokenizer.encode(context + continuation)
    assert len(ids) > 65
    num_scored = len(ids) - len(loaded.tokenizer.encode(context))
    assert log_p == pytest.approx(direct(loaded.model, ids[-65:], num_scored)[0], rel=1e-5)


def test_what_cannot_be_scored_leaves_the_rest_as_it_is(engine, loaded):
    long = "the red fox runs over the river " * 12
    pairs = [PAIRS[0], ("a", long), ("", ""), ("the riv", "er"), PAIRS[1]]
    alone = [engine.loglikelihood([request(*pair)])[0] for pair in (PAIRS[0], PAIRS[1])]
    results = engine.loglikelihood([request(*pair) for pair in pairs])
    assert [results[0], results[-1]] == [(pytest.approx(nats, rel=1e-5), greedy) for nats, greedy in alone]
    assert results[1:3] == [(-math.inf, False)] * 2
    size = len(loaded.tokenizer.encode("a" + long)) - 1
    assert engine.failures[request_name(("a", long))] == (
        f"a continuation of {size} tokens does not fit in the model's context of 64"
    )
    assert engine.failures[request_name(("", ""))] == "the continuation has no tokens"


def test_without_an_end_of_sequence_in_front_only_empty_contexts_get_one(loaded):
    eos, encode = loaded.tokenizer.eos_id, loaded.tokenizer.encode
    lm = EngineLM(loaded, document_start="none")
    results = lm.loglikelihood([request("the red", " fox"), request("", "the bird")])
    assert results[0][0] == pytest.approx(direct(loaded.model, encode("the red fox"), 1)[0], rel=1e-5)
    ids = [eos, *encode("the bird")]
    assert results[1][0] == pytest.approx(direct(loaded.model, ids, len(ids) - 1)[0], rel=1e-5)
    [text] = lm.generate_until([request("the red", {"max_gen_toks": 8})])
    assert text == continued(loaded, encode("the red"), 8)
    assert lm.generate_until([request("", {"max_gen_toks": 8})]) == [continued(loaded, [eos], 8)]


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


def continued(loaded, ids, wanted):
    """Text of the plain loop."""
    sampling = SamplingConfig(max_new_tokens=wanted)
    tokens = generate(loaded.model, ids, sampling, loaded.tokenizer.eos_id, loaded.tokenizer.vocab_size)
    return loaded.tokenizer.decode([token for token in tokens if token != loaded.tokenizer.eos_id])


def test_texts_are_those_of_the_plain_loop_whatever_is_asked_beside_them(engine, loaded):
    contexts = [" ".join(["the red fox runs"] * repeats) for repeats in range(1, 12)]
    asked = [request(context, {"max_gen_toks": 9}) for context in contexts]
    starts = [[loaded.tokenizer.eos_id, *loaded.tokenizer.encode(context)] for context in contexts]
    assert engine.generate_until(asked) == [continued(loaded, start, 9) for start in starts]


def test_any_number_of_stop_strings_cuts_the_text(engine):
    [text] = engine.generate_until([request("the red fox", {"max_gen_toks": 30})])
    stops = [f"\0{number}" for number in range(20)] + ["x" * 300, "", text[5:7]]
    assert engine.generate_until([request("the red fox", {"max_gen_toks": 30, "until": stops})]) == [
        text[: text.index(text[5:7])]
    ]


def test_a_prompt_keeps_half_the_context_however_many_tokens_are_wanted(loaded):
    lm = EngineLM(loaded)
    context, wanted = "the red fox runs over " * 40, {"max_gen_toks": 1_000, "until": "\0"}
    ids = loaded.tokenizer.encode(context)
    assert lm.generate_until([request(context, wanted)]) == [continued(loaded, ids[-32:], 32)]
    assert lm.cuts == {request_name((context, wanted))}
    lm.generate_until([request("the red fox", wanted)])
    assert len(lm.cuts) == 1


def test_samples_differ_and_depend_on_nothing_else_that_is_asked(loaded):
    wanted = {"max_gen_toks": 12, "do_sample": True, "temperature": 1.0, "top_p": 0.95}
    asked = [
        Instance("generate_until", {}, (context, wanted), 0, ("task", number, 3))
        for number, context in enumerate(["the red", "a small bird", "the red"])
        for _ in range(3)
    ]
    samples = EngineLM(loaded).generate_until(asked)
    assert len(set(samples)) == 9
    assert EngineLM(loaded).generate_until(asked[6:] + asked[:3]) == samples[6:] + samples[:3]
    assert EngineLM(loaded, seed=1).generate_until(asked) != samples


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"num_beams": 4},
            "generation_kwargs.num_beams (4): must be 1, since beams are not searched; leave it out",
        ),
        (
            {"do_sample": True, "temperature": -1.0},
            "sampling.temperature (-1.0): must be 0 (greedy) or a finite number above 0",
        ),
    ],
)
def test_settings_that_give_other_texts_than_asked_are_refused(engine, wanted, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        engine.generate_until([request("the", wanted)])


def test_the_harnesss_own_cache_hears_of_each_result_but_samples(loaded):
    lm, heard = EngineLM(loaded), {}
    lm.cache_hook.add_partial = lambda method, args, result: heard.__setitem__((method, str(args)), result)
    greedy, sample = ("the", {"max_gen_toks": 4}), ("the", {"max_gen_toks": 4, "do_sample": True, "temperature": 1.0})
    results = lm.loglikelihood([request(*pair) for pair in PAIRS])
    [rolling] = lm.loglikelihood_rolling([request("the red fox")])
    text, _ = lm.generate_until([request(*greedy), request(*sample)])
    assert heard == {("loglikelihood", str(pair)): result for pair, result in zip(PAIRS, results, strict=True)} | {
        ("loglikelihood_rolling", "('the red fox',)"): rolling,
        ("generate_until", str(greedy)): text,
    }
