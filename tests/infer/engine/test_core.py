"""The engine on a runner without a model: any mix of requests gives what each gives alone, and nothing is left."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_runner import VOCAB_SIZE, LetterTokenizer, TokenRunner, expected_tokens

from nemotron4_infer.engine import core as core_module
from nemotron4_infer.engine.build import build_engine
from nemotron4_infer.engine.core import Engine, QueueFullError
from nemotron4_infer.engine.reference import ReferenceRunner
from nemotron4_infer.engine.request import FinishReason, Request
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.sampling import SamplingConfig
from nemotron4_model import ModelConfig, Transformer, initialise

PAGED = pytest.mark.parametrize("is_paged", [False, True], ids=["slabs", "paged"])


class Repeat:
    """Guesses that what followed the last token before follows it again; `accepted` is checked against `propose`."""

    proposed, right = 0, 0

    def propose(self, token_ids):
        at = next((i for i in range(len(token_ids) - 2, -1, -1) if token_ids[i] == token_ids[-1]), None)
        return [] if at is None else token_ids[at + 1 : at + 4]

    def accepted(self, num_proposed, num_accepted):
        assert 0 <= num_accepted <= num_proposed <= 3
        Repeat.proposed, Repeat.right = Repeat.proposed + num_proposed, Repeat.right + num_accepted


def make_engine(runner, guesser=None, **config):
    config = EngineConfig(prompt_lookup=guesser is not None, **config)
    return Engine(runner, LetterTokenizer(), config, make_guesser=guesser)


class Answer:
    """What a choice got, with the rules of Delta checked on the way."""

    def __init__(self):
        self.ids, self.text, self.finish, self.prompt, self.error, self.cached = [], "", None, None, None, 0

    def add(self, delta):
        assert self.finish is None, "nothing follows the last Delta"
        assert delta.prompt is None or (self.prompt is None and self.ids == [])
        self.prompt = self.prompt or delta.prompt
        self.ids += [token.id for token in delta.tokens]
        self.text += delta.text
        self.finish, self.error, self.cached = delta.finish, delta.error, delta.cached_tokens
        assert (self.error is not None) == (self.finish is FinishReason.error)


def run(engine, requests, before_step=lambda step: None, most=2_000):
    answers = {}
    for request in requests:
        engine.check(request)
        number = engine.add(request)
        answers.update({(number, choice): Answer() for choice in range(request.choices)})
    for step in range(most):
        before_step(step)
        if not engine.has_work:
            return answers
        for delta in engine.step():
            answers[delta.request, delta.choice].add(delta)
        found = engine.statistics()
        assert found.pages_free + found.pages_cached + found.pages_running == engine.runner.num_pages
    raise AssertionError("it runs forever")


def greedy(prompt, new=4, **fields):
    return Request(prompt_ids=tuple(prompt), sampling=SamplingConfig(max_new_tokens=new), **fields)


@st.composite
def requests(draw):
    size = draw(st.integers(1, 16))
    prompt = draw(st.sampled_from([(5, 6, 7, 8) * 4, (5, 6, 7, 8, 9) * 4, (9,) * 16]))[:size]
    new, choices = draw(st.integers(0, 8)), draw(st.sampled_from([1, 1, 2, 3]))
    scored, salt = draw(st.sampled_from([None, None, 0, 2])), draw(st.sampled_from(["", "a"]))
    return greedy(prompt, new, choices=choices, prompt_logprobs=scored, salt=salt)


def check_answer(answer, request):
    """An answer that was neither cancelled nor met by a fault."""
    wanted = expected_tokens(request.prompt_ids, request.sampling.max_new_tokens)
    assert answer.ids == wanted
    assert answer.finish is (FinishReason.stop if wanted[-1:] == [3] else FinishReason.length)
    assert answer.text == "".join(chr(ord("A") + token) for token in wanted if token != 3)
    assert answer.cached < len(request.prompt_ids)
    if request.prompt_logprobs is not None:
        assert [token.id for token in answer.prompt] == list(request.prompt_ids)
        assert answer.prompt[0].logprob is None
        assert all(token.logprob < 0 and len(token.top) == request.prompt_logprobs for token in answer.prompt[1:])


def check_nothing_is_left(engine):
    found = engine.statistics()
    assert (found.running, found.waiting, found.pages_running) == (0, 0, 0)
    runner = engine.runner
    assert runner.capacities == runner.slabs == runner.tables == runner.true_ids == {}
    assert engine._active == engine._requests == {}
    assert runner.is_paged or len(runner.pages) == found.pages_cached


@PAGED
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(requests(), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), max_size=3),
    st.lists(st.tuples(st.sampled_from(["run", "open", "save", "close"]), st.integers(1, 8)), max_size=2),
    st.integers(1, 4),
    st.integers(7, 12),
    st.booleans(),
)
def test_each_gets_what_it_gets_alone_or_one_error(is_paged, asked, cancels, faults, max_running, num_pages, keeps):
    runner = TokenRunner(is_paged=is_paged, num_pages=num_pages)
    engine = make_engine(runner, Repeat, max_running=max_running, max_waiting=20, step_tokens=8, prefix_cache=keeps)
    calls = Counter()

    def fail(name):
        calls[name] += 1
        if (name, calls[name]) in faults:
            raise RuntimeError(f"{name}\nfails")

    runner.fail = fail
    cancelled = {number for number, _ in cancels}
    answers = run(engine, asked, lambda step: [engine.cancel(n) for n, when in cancels if when == step])

    for (number, _), answer in answers.items():
        if answer.finish is FinishReason.error:
            assert answer.error in {f"RuntimeError: {name} fails" for name, _ in faults}
        elif answer.finish is None:
            assert number in cancelled
        else:
            check_answer(answer, asked[number])
    if not faults and not cancels:
        assert all(answer.finish is not None for answer in answers.values())
    check_nothing_is_left(engine)
    assert sum(engine.statistics().finished.values()) == len(answers)


@PAGED
def test_a_fault_in_a_step_ends_only_its_sequences(is_paged):
    runner = TokenRunner(is_paged=is_paged, num_pages=20)
    engine = make_engine(runner, max_running=2, max_waiting=2)

    def fail(name):
        if name == "run" and len(runner.steps) == 2:
            raise OSError("gone")

    runner.fail = fail
    answers = run(engine, [greedy([5, 6]), greedy([7, 8]), greedy([5, 9])])
    reasons = [answer.finish for answer in answers.values()]
    assert reasons[:2] == [FinishReason.error] * 2
    check_answer(answers[2, 0], greedy([5, 9]))
    assert answers[0, 0].error == "OSError: gone"
    check_nothing_is_left(engine)


def test_two_steps_that_fail_in_a_row_are_counted_until_one_succeeds():
    runner = TokenRunner(is_paged=True, num_pages=20)
    engine = make_engine(runner)
    runner.fail = lambda name: 1 / 0 if name == "run" and len(runner.steps) <= 2 else None
    counts = []
    for _ in range(3):
        run(engine, [greedy([5, 6])])
        counts.append(engine.statistics().failed_steps)
    assert counts == [1, 2, 0]
    assert engine.statistics().last_error == "ZeroDivisionError: division by zero"


def test_requests_that_cannot_be_opened_count_as_failed_steps_where_nothing_else_runs():
    """Nothing can be opened, for example, once ranks are out of step."""
    runner = TokenRunner(is_paged=True, num_pages=20)
    engine = make_engine(runner)
    runner.fail = lambda name: 1 / 0 if name == "open" else None
    for count in (1, 2):
        assert run(engine, [greedy([5, 6])])[count - 1, 0].finish is FinishReason.error
        assert engine.statistics().failed_steps == count
    runner.fail = lambda name: None
    check_answer(run(engine, [greedy([5, 6])])[2, 0], greedy([5, 6]))
    assert engine.statistics().failed_steps == 0


@PAGED
def test_a_runner_that_fails_to_close_keeps_no_page(is_paged):
    runner = TokenRunner(is_paged=is_paged, num_pages=20)
    engine = make_engine(runner)
    runner.fail = lambda name: 1 / 0 if name == "close" else None
    check_answer(run(engine, [greedy([5, 6])])[0, 0], greedy([5, 6]))
    assert (engine.statistics().running, engine.statistics().pages_running) == (0, 0)
    assert engine.statistics().last_error == "ZeroDivisionError: division by zero"


@PAGED
def test_a_fault_of_the_sampler_ends_the_step_or_the_one_that_it_names(is_paged, monkeypatch):
    engine = make_engine(TokenRunner(is_paged=is_paged, num_pages=20))
    choose, calls = core_module.choose, []

    def failing(rows_SV, states):
        calls.append(len(states))
        if len(calls) == 2:
            raise core_module.ChoiceError({1: "no token is possible"})
        if len(calls) == 5:
            raise RuntimeError("odd")
        return choose(rows_SV, states)

    monkeypatch.setattr(core_module, "choose", failing)
    answers = run(engine, [greedy([5, 6], 8, choices=3)])
    errors = [answer.error for answer in answers.values()]
    assert errors == ["RuntimeError: odd", "no token is possible", "RuntimeError: odd"]
    assert calls == [3, 3, 2, 2, 2]
    assert engine.statistics().failed_steps == 1
    check_nothing_is_left(engine)


@PAGED
def test_a_fault_in_making_the_text_of_one_ends_that_one(is_paged):
    runner = TokenRunner(is_paged=is_paged, num_pages=20)
    engine = make_engine(runner)

    class Odd(LetterTokenizer):
        def decode_bytes(self, ids):
            raise ValueError("not a token")

    engine.tokenizer = Odd()
    engine.add(greedy([5, 6]))
    engine.tokenizer = LetterTokenizer()
    engine.add(greedy([5, 6]))
    answers = {0: Answer(), 1: Answer()}
    while engine.has_work:
        for delta in engine.step():
            answers[delta.request].add(delta)
    assert answers[0].error == "ValueError: not a token"
    check_answer(answers[1], greedy([5, 6]))
    assert engine.statistics().failed_steps == 0
    check_nothing_is_left(engine)


@PAGED
@pytest.mark.parametrize("scored", [None, 1])
def test_choices_compute_their_prompt_once(is_paged, scored):
    runner = TokenRunner(is_paged=is_paged, num_pages=30)
    request = greedy(range(5, 15), 3, choices=4, prompt_logprobs=scored)
    engine = make_engine(runner, prefix_cache=False)
    for _ in range(2):  # without a prefix cache the second finds nothing of the first
        runner.steps.clear()
        answers = run(engine, [request])
        for answer in answers.values():
            check_answer(answer, request)
        computed = sum(len(span.token_ids) for step in runner.steps for span in step if span.is_prefill)
        assert computed == 10 + 3 * 2
        assert [answer.cached for answer in answers.values()] == [0, 8, 8, 8]


@PAGED
@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_a_cancelled_request_gets_nothing_more_wherever_it_is(is_paged, num_steps):
    engine = make_engine(TokenRunner(is_paged=is_paged, num_pages=30), step_tokens=64)
    number = engine.add(greedy(range(5, 39), 20, choices=2))
    for _ in range(num_steps):
        engine.step()
    engine.cancel(number)
    assert not engine.has_work
    assert engine.step() == []
    check_nothing_is_left(engine)
    assert engine.statistics().finished[FinishReason.cancelled] == 2


def test_only_whole_pages_of_prompts_of_the_same_salt_are_reused():
    runner = TokenRunner(is_paged=False, num_pages=30)
    engine = make_engine(runner, max_running=1, max_waiting=9)
    first = greedy(range(5, 12), 8)
    longer = (*first.prompt_ids, *expected_tokens(first.prompt_ids, 8))
    asked = [first, first, greedy(longer, 1), greedy(longer, 1), greedy(first.prompt_ids, 8, salt="other")]
    answers = run(engine, asked)
    assert [answer.cached for answer in answers.values()] == [0, 4, 4, (len(longer) - 1) // 4 * 4, 0]
    found = engine.statistics()
    assert found.prefix_hit_tokens == sum(answer.cached for answer in answers.values())
    assert found.prefix_queried_tokens == found.prompt_tokens == sum(len(request.prompt_ids) for request in asked)


def test_guesses_save_steps_and_are_counted():
    Repeat.proposed = Repeat.right = 0
    prompt, new = (5, 6, 7, 8, 9), 40
    runs = {}
    for guesser in (None, Repeat):
        runner = TokenRunner(is_paged=False, num_pages=30)
        engine = make_engine(runner, guesser)
        answers = run(engine, [greedy(prompt, new)])
        check_answer(answers[0, 0], greedy(prompt, new))
        runs[guesser] = len(runner.steps), engine.statistics()
    steps, found = runs[Repeat]
    assert (found.drafted_tokens, found.accepted_tokens) == (Repeat.proposed, Repeat.right)
    assert 0 < found.accepted_tokens < found.drafted_tokens
    assert steps == runs[None][0] - found.accepted_tokens


@pytest.mark.parametrize("count", [4, 5])
def test_guesses_stop_where_many_run(count):
    runner = TokenRunner(is_paged=True, num_pages=60)
    engine = make_engine(runner, Repeat)
    run(engine, [greedy((5, 6, 5, 6, 5), 9, choices=count)])
    full = [step for step in runner.steps if len(step) == count]
    assert any(len(span.token_ids) > 1 for step in full for span in step) == (count <= 4)


def test_text_ends_before_a_stop_and_what_was_held_back_is_shown_at_the_end():
    prompt = (5, 5, 6)
    ids = expected_tokens(prompt, 12)
    text = "".join(chr(ord("A") + token) for token in ids)
    end = next(at for at in range(4, 11) if text[at : at + 2] not in text[: at + 1])
    stop, never = text[end : end + 2], text[-1] + "?"
    for stops, shown, finish in (([stop, never], text[:end], "stop"), ([never], text, "length")):
        sampling = SamplingConfig(max_new_tokens=12, stop=stops)
        engine = make_engine(TokenRunner(is_paged=True, num_pages=30))
        answers = run(engine, [Request(prompt_ids=prompt, sampling=sampling)])
        assert (answers[0, 0].text, answers[0, 0].finish) == (shown, FinishReason(finish))
        check_nothing_is_left(engine)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"prompt_ids": ()}, "prompt (''): must have at least one token"),
        (
            {"prompt_ids": (5,) * 60},
            "prompt + max_new_tokens (60 + 5 tokens): must fit in the model's context of 64 tokens",
        ),
        (
            {"prompt_ids": (5,) * 36},
            "prompt + max_new_tokens (36 + 5 tokens): must fit in the cache of 40 tokens; raise engine.cache_tokens",
        ),
        ({"prompt_ids": (5, VOCAB_SIZE)}, "prompt (id 40): must be in [0, 40)"),
        ({"prompt_ids": (5, -1)}, "prompt (id -1): must be in [0, 40)"),
        ({"choices": 0}, "choices (0): must be from 1 to 7, engine.max_running + engine.max_waiting"),
        ({"choices": 8}, "choices (8): must be from 1 to 7, engine.max_running + engine.max_waiting"),
        ({"logprobs": 41}, "logprobs (41): must be in [0, 40]"),
        ({"prompt_logprobs": -1}, "prompt_logprobs (-1): must be in [0, 40]"),
    ],
)
def test_what_can_never_run_is_refused(fields, line):
    engine = make_engine(TokenRunner(is_paged=True, num_pages=10), max_running=2, max_waiting=5)
    fields = {"prompt_ids": (5,), "sampling": SamplingConfig(max_new_tokens=5)} | fields
    with pytest.raises(ValueError) as raised:
        engine.check(Request(**fields))
    assert str(raised.value) == line


@pytest.mark.parametrize("name", ["logit_bias", "stop_token_ids"])
def test_ids_of_settings_must_have_a_piece(name):
    engine = make_engine(TokenRunner(is_paged=True, num_pages=10))
    sampling = SamplingConfig(**{name: {40: 1.0} if name == "logit_bias" else [40]}, max_new_tokens=1)
    with pytest.raises(ValueError, match=rf"^sampling.{name} \(id 40\): must be in \[0, 40\)$"):
        engine.check(Request(prompt_ids=(5,), sampling=sampling))


def test_a_request_beyond_those_that_may_wait_is_turned_away():
    engine = make_engine(TokenRunner(is_paged=True, num_pages=10), max_running=1, max_waiting=2)
    engine.add(greedy([5], choices=2))
    with pytest.raises(QueueFullError):
        engine.add(greedy([5], choices=2))
    engine.add(greedy([5]))


def test_a_cache_without_a_page_is_refused():
    with pytest.raises(ValueError, match=r"^engine.cache_tokens \(3\): must be at least 4, the tokens of a page$"):
        make_engine(TokenRunner(is_paged=True, num_pages=0), cache_tokens=3)


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        init_std=0.3,
        max_sequence_length=64,
    )
    transformer = Transformer(config)
    initialise(transformer, 0, config)
    return transformer.eval()


class Recorder(ReferenceRunner):
    """Keeps the logits that each choice was drawn from."""

    def __init__(self, model, num_pages):
        super().__init__(model, num_pages * 8, page_tokens=8)
        self.rows = {}

    def run(self, spans):
        logits = super().run(spans)
        for span, logits_TV in zip(spans, logits, strict=True):
            for row, logits_V in enumerate(logits_TV):
                self.rows[span.sequence, span.begin + len(span.token_ids) - len(logits_TV) + row] = logits_V
        return logits


def test_an_engine_of_a_model_directory_follows_a_schema_and_guesses(model_dir):
    pytest.importorskip("llguidance")
    engine = build_engine(str(model_dir), None, EngineConfig())
    schema = Request(prompt_ids=(3, 300), sampling=SamplingConfig(max_new_tokens=20), json_schema='{"type": "boolean"}')
    with pytest.raises(ValueError, match=r"^json_schema \('\{'\): not JSON: "):
        engine.check(replace(schema, json_schema="{"))
    answers = run(engine, [schema, greedy((3, *[300, 301, 302] * 8), 30)])
    assert answers[0, 0].text.strip() in ("true", "false")
    assert engine.statistics().drafted_tokens > 0


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_logits_have_the_bits_of_the_request_alone(model, random):
    def prompt():
        return tuple(random.choice([7, 9]) for _ in range(8)) * random.randint(1, 3) + (random.randint(4, 30),)

    def asked():
        sampling = SamplingConfig(temperature=random.choice([0, 0, 1]), seed=1, max_new_tokens=random.randint(1, 12))
        return Request(prompt_ids=prompt(), sampling=sampling)

    all_asked = [asked() for _ in range(6)]
    together = Recorder(model, 16)
    max_running, step_tokens = random.randint(1, 6), random.randint(6, 30)
    engine = make_engine(together, Repeat, max_running=max_running, step_tokens=step_tokens)
    answers = run(engine, all_asked)
    for number, request in enumerate(all_asked):
        alone = Recorder(model, 16)
        ((_, answer),) = run(make_engine(alone), [request]).items()
        assert answers[number, 0].ids == answer.ids
        for (_, position), logits_V in alone.rows.items():
            assert torch.equal(together.rows[number, position], logits_V)
