"""The engine's thread, on a runner without a model: faults anywhere cost their own request, and nothing is left."""

import gc
import queue
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_runner import LetterTokenizer, TokenRunner, expected_tokens

from nemotron4_infer.engine import loop as loop_module
from nemotron4_infer.engine.core import Engine, QueueFullError
from nemotron4_infer.engine.loop import EngineThread, StoppedError
from nemotron4_infer.engine.request import FinishReason, Request
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.sampling import SamplingConfig

SECONDS = 60  # a limit that is reached only if something hangs
PROMPT = (5, 5, 6)  # more than 40 tokens follow it


def make_thread(fail=lambda name: None, *, num_pages=40, **config):
    runner = TokenRunner(is_paged=False, num_pages=num_pages)
    runner.fail = fail
    return EngineThread(Engine(runner, LetterTokenizer(), EngineConfig(**config)))


@pytest.fixture
def make():
    made = []

    def make_one(*args, **config):
        made.append(make_thread(*args, **config))
        return made[-1]

    yield make_one
    for thread in made:
        thread.close()


def greedy(prompt=PROMPT, new=4, **fields):
    return Request(prompt_ids=tuple(prompt), sampling=SamplingConfig(max_new_tokens=new), **fields)


class Listener:
    """Gathers Deltas; `ended` is set by the last of as many choices."""

    def __init__(self, choices=1, raises_at=None):
        self.deltas, self.ended, self.choices, self.raises_at = [], threading.Event(), choices, raises_at

    def __call__(self, delta):
        self.deltas.append(delta)
        if len(self.deltas) == self.raises_at:
            raise ValueError("a listener fails")
        if sum(delta.finish is not None for delta in self.deltas) == self.choices:
            self.ended.set()

    @property
    def ids(self):
        return [token.id for delta in self.deltas for token in delta.tokens]

    def wait(self):
        assert self.ended.wait(SECONDS)
        return self.deltas[-1].finish


def gate_at(name, call=1):
    """A fault that holds the engine's thread in a call until `go` is set; `there` tells that it has come."""
    there, go, calls = threading.Event(), threading.Event(), []

    def fail(called):
        calls.append(called)
        if called == name and calls.count(name) == call:
            there.set()
            assert go.wait(SECONDS)

    return fail, there, go


def test_the_first_delta_says_how_long_its_choice_waited_for_a_step(make):
    fail, there, go = gate_at("run")
    thread, first, second = make(fail, max_running=1), Listener(), Listener(2)
    thread.submit(greedy(), first)
    assert there.wait(SECONDS)
    thread.submit(greedy(choices=2), second)
    submitted = time.monotonic()
    time.sleep(0.01)
    least = time.monotonic() - submitted
    go.set()
    assert first.wait() is second.wait() is FinishReason.length
    for listener, waited, choices in ((first, 0, 1), (second, least, 2)):
        found = [delta.queued_seconds for delta in listener.deltas if delta.queued_seconds is not None]
        assert len(found) == choices
        assert min(found) >= waited
        begun = {}
        for delta in listener.deltas:
            assert (delta.queued_seconds is None) == (delta.choice in begun)
            begun[delta.choice] = True


def check_nothing_is_left(thread):
    thread.drain(SECONDS)
    found = thread.statistics()
    assert (found.running, found.waiting, found.pages_running) == (0, 0, 0)
    assert thread._listeners == {}
    assert thread._num_open == 0
    assert thread.engine.runner.capacities == {}


def test_a_request_is_answered_under_its_handle(make):
    thread, listener = make(), Listener(choices=2)
    handle = thread.submit(greedy(choices=2), listener)
    assert listener.wait() is FinishReason.length
    assert {(delta.request, delta.choice) for delta in listener.deltas} == {(handle, 0), (handle, 1)}
    assert listener.ids[::2] == expected_tokens(PROMPT, 4)
    check_nothing_is_left(thread)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 9), st.integers(1, 6), st.integers(1, 2), st.none() | st.integers(1, 5), st.booleans()
        ),
        min_size=1,
        max_size=6,
    ),
    st.sets(st.tuples(st.sampled_from(["run", "open", "save", "close"]), st.integers(1, 9)), max_size=2),
)
def test_whatever_fails_or_is_cancelled_the_others_go_on(asked, faults):
    calls = []

    def fail(name):
        calls.append(name)
        if (name, calls.count(name)) in faults:
            raise RuntimeError(name)

    thread = make_thread(fail, max_running=3)
    listeners = []
    try:
        for size, new, choices, raises_at, is_cancelled in asked:
            listener = Listener(choices, raises_at)
            handle = thread.submit(greedy((5, 6, 7, 8, 9, 5, 6, 7, 8)[:size], new, choices=choices), listener)
            listeners.append(listener)
            if is_cancelled:
                thread.cancel(handle)
        assert thread.drain(SECONDS)
        check_nothing_is_left(thread)
    finally:
        thread.close()
    for listener, (size, new, choices, raises_at, is_cancelled) in zip(listeners, asked, strict=True):
        if raises_at is not None:
            assert len(listener.deltas) <= raises_at, "a listener that raised gets nothing more"
        has_ended = raises_at is not None and len(listener.deltas) == raises_at
        if not is_cancelled and not has_ended:
            assert listener.ended.is_set()
            if not faults:
                assert sorted(listener.ids) == sorted(
                    choices * expected_tokens((5, 6, 7, 8, 9, 5, 6, 7, 8)[:size], new)
                )


def test_the_limit_counts_what_was_submitted_but_not_yet_taken(make):
    fail, there, go = gate_at("run")
    thread, listeners = make(fail, max_running=1, max_waiting=2), [Listener() for _ in range(3)]
    thread.submit(greedy(), listeners[0])
    assert there.wait(SECONDS)
    for listener in listeners[1:]:
        thread.submit(greedy(), listener)
    with pytest.raises(QueueFullError) as raised:
        thread.submit(greedy(), Listener())
    assert not isinstance(raised.value, StoppedError)
    go.set()
    for listener in listeners:
        listener.wait()
    thread.submit(greedy(), Listener())
    check_nothing_is_left(thread)


def test_a_request_that_can_never_run_is_refused_at_once(make):
    with pytest.raises(ValueError, match=r"^prompt \(''\): must have at least one token$"):
        make().submit(greedy(()), Listener())


def test_what_goes_wrong_after_queueing_reaches_the_listener(make, monkeypatch):
    thread, listener = make(), Listener(choices=2)
    monkeypatch.setattr(thread.engine, "add", lambda request, number: 1 / 0)
    handle = thread.submit(greedy(choices=2), listener)
    assert listener.wait() is FinishReason.error
    assert [(delta.request, delta.choice) for delta in listener.deltas] == [(handle, 0), (handle, 1)]
    assert listener.deltas[0].error == "ZeroDivisionError: division by zero"
    check_nothing_is_left(thread)


def test_a_cancel_in_a_step_takes_effect_after_it(make):
    fail, there, go = gate_at("run", call=3)
    thread, cancelled, other = make(fail), Listener(), Listener()
    handle = thread.submit(greedy(new=40), cancelled)
    thread.submit(greedy(new=9), other)
    assert there.wait(SECONDS)
    count = len(cancelled.deltas)
    thread.cancel(handle)
    thread.cancel(handle)
    thread.cancel(999)
    go.set()
    assert other.wait() is FinishReason.length
    assert len(cancelled.deltas) <= count + 1
    check_nothing_is_left(thread)
    assert thread.statistics().finished[FinishReason.cancelled] == 1


def test_health_tells_of_two_failing_steps_and_of_recovery(make):
    faults = iter([True, True, False])
    thread = make(lambda name: 1 / 0 if name == "run" and next(faults, False) else None)
    seen = []
    for _ in range(3):
        listener = Listener()
        thread.submit(greedy(new=1), listener)
        seen.append((listener.wait(), thread.health().is_alive))
    error, length = FinishReason.error, FinishReason.length
    assert seen == [(error, True), (error, False), (length, True)]
    assert thread.health().last_error == "ZeroDivisionError: division by zero"


def test_health_tells_of_a_step_that_hangs_but_not_of_idleness(make, monkeypatch):
    fail, there, go = gate_at("run")
    thread, listener = make(fail), Listener()
    monkeypatch.setattr(loop_module, "HANG_SECONDS", 0.0)
    thread.submit(greedy(), listener)
    assert there.wait(SECONDS)
    assert not thread.health().is_alive
    assert thread.health().seconds_since_step > 0
    go.set()
    listener.wait()
    monkeypatch.setattr(loop_module, "HANG_SECONDS", 1.0)
    check_nothing_is_left(thread)
    while thread.health().seconds_since_step > 0:  # it is about to find nothing to do
        pass
    assert thread.health().is_alive


def test_a_fault_of_the_engine_itself_ends_all_and_the_thread_goes_on(make, monkeypatch):
    thread, listeners = make(max_running=1), [Listener(), Listener()]
    step, faults = thread.engine.step, iter([1])
    monkeypatch.setattr(thread.engine, "step", lambda: 1 / 0 if next(faults, 0) else step())
    fail, _, go = gate_at("open")
    thread._commands.put(lambda: fail("open"))  # so that both requests are there at the first step
    for listener in listeners:
        thread.submit(greedy(), listener)
    go.set()
    assert [listener.wait() for listener in listeners] == [FinishReason.error] * 2
    last = Listener()
    thread.submit(greedy(), last)
    assert last.wait() is FinishReason.length
    check_nothing_is_left(thread)


def test_a_thread_that_is_killed_tells_its_listeners_and_takes_no_more(make, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    hold, there, go = gate_at("run")

    def fail(name):
        hold(name)
        if name == "run":
            raise SystemExit

    refused = []

    class Again(Listener):
        def __call__(self, delta):
            try:
                thread.submit(greedy(), Listener())
            except StoppedError:
                refused.append(delta.request)
            super().__call__(delta)

    thread, listeners = make(fail), [Again(), Again()]
    thread.submit(greedy(), listeners[0])
    assert there.wait(SECONDS)
    thread.submit(greedy(), listeners[1])  # is in the queue of commands when the thread ends
    go.set()
    assert [listener.wait() for listener in listeners] == [FinishReason.error] * 2
    assert listeners[0].deltas[-1].error == "the engine's thread ended"
    assert refused == [0, 1]  # while it ends, too
    thread._thread.join(SECONDS)
    assert not thread.health().is_alive
    with pytest.raises(StoppedError):
        thread.submit(greedy(), Listener())
    assert thread.drain(SECONDS)


def test_statistics_are_those_after_the_step_whose_deltas_arrive(make):
    thread, seen, ended = make(), [], Listener()

    def on_delta(delta):
        seen.append(thread.statistics().generated_tokens)
        ended(delta)

    thread.submit(greedy(), on_delta)
    ended.wait()
    assert seen == [1, 2, 3, 4]


def test_listeners_are_told_though_the_engine_fails_to_cancel(make, monkeypatch):
    fail, there, go = gate_at("run")
    thread, listeners = make(fail), [Listener(), Listener()]
    for listener in listeners:
        thread.submit(greedy(), listener)
    assert there.wait(SECONDS)
    with monkeypatch.context() as patched:
        patched.setattr(thread.engine, "cancel", lambda number: 1 / 0)
        thread._commands.put(loop_module._leave)
        go.set()
        assert [listener.wait() for listener in listeners] == [FinishReason.cancelled] * 2
        thread._thread.join(SECONDS)


def test_close_ends_the_engine_once():
    ended = []
    runner = TokenRunner(is_paged=False, num_pages=4)
    engine = Engine(runner, LetterTokenizer(), EngineConfig(), on_close=lambda: ended.append(thread._thread.is_alive()))
    thread = EngineThread(engine)
    thread.close()
    thread.close()
    assert ended == [False]


def test_close_does_not_wait_for_a_step_that_hangs(make, monkeypatch):
    fail, there, go = gate_at("run")
    thread, listener = make(fail), Listener()
    thread.submit(greedy(), listener)
    assert there.wait(SECONDS)
    with monkeypatch.context() as patched:
        patched.setattr(loop_module, "HANG_SECONDS", 0.01)
        thread.close()
    assert listener.deltas == []
    go.set()
    assert listener.wait() is FinishReason.cancelled


def test_drain_waits_for_what_runs_and_refuses_what_comes(make):
    fail, there, go = gate_at("run")
    thread, listener = make(fail), Listener()
    thread.submit(greedy(), listener)
    assert there.wait(SECONDS)
    assert not thread.drain(0)
    with pytest.raises(StoppedError):
        thread.submit(greedy(), Listener())
    go.set()
    assert thread.drain(SECONDS)
    assert listener.deltas[-1].finish is FinishReason.length
    assert thread.statistics().pages_running == 0


def test_close_ends_what_runs_and_what_was_not_yet_taken(make):
    fail, there, go = gate_at("run", call=2)
    thread, listeners = make(fail), [Listener(), Listener(), Listener()]
    thread.submit(greedy(new=40), listeners[0])
    assert there.wait(SECONDS)
    thread.submit(greedy(), listeners[1])
    closing = threading.Thread(target=thread.close)
    closing.start()
    go.set()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert [listener.wait() for listener in listeners[:2]] == [FinishReason.cancelled] * 2
    with pytest.raises(StoppedError):
        thread.submit(greedy(), listeners[2])
    check_nothing_is_left(thread)
    thread.close()


def test_memory_is_flat_over_ten_thousand_requests(make, monkeypatch):
    """Requests of new prompts and new salts, some of which are cancelled, and listeners that raise."""
    monkeypatch.setattr(loop_module._log, "disabled", True)  # pytest would keep the records
    thread = make(max_running=64, max_waiting=200)
    ended = queue.SimpleQueue()

    def serve(numbers):
        for number in numbers:
            prompt = [4 + number // 36**digit % 36 for digit in range(5)]
            on_delta = ended.put if number % 97 else lambda delta: 1 / 0
            while True:
                try:
                    handle = thread.submit(greedy(prompt, 1, salt=str(number)), on_delta)
                    break
                except QueueFullError:
                    ended.get(timeout=SECONDS)
            if number % 5 == 0:
                thread.cancel(handle)
        check_nothing_is_left_open(thread)
        while not ended.empty():
            ended.get()
        thread.engine.runner.steps.clear()
        gc.collect()
        return len(gc.get_objects())

    before = serve(range(2_000))
    assert serve(range(2_000, 10_000)) <= before + 100
    assert thread.statistics().pages_cached > 0


def check_nothing_is_left_open(thread):
    with thread._lock:
        assert thread._lock.wait_for(lambda: thread._num_open == 0, SECONDS)
    assert thread._listeners == {}
