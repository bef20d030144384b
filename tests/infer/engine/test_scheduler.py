"""Simulated steps with random arrivals, ends and cancellations, with slabs and with a paged cache."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_runner import TokenRunner

from nemotron4_infer.engine.scheduler import Scheduler, Sequence

PAGE = 4


@st.composite
def arrivals(draw):
    """(step of arrival, prompt, new tokens, step at which it is cancelled or None), in order of arrival."""
    prompts = st.lists(st.sampled_from([5, 6]), min_size=1, max_size=18).map(tuple)
    steps = st.integers(0, 12)
    found = draw(st.lists(st.tuples(steps, prompts, st.integers(1, 6), st.none() | steps), min_size=1, max_size=8))
    return sorted(found, key=lambda item: item[0])


class Simulation:
    def __init__(self, runner, arrivals, *, max_running, step_tokens):
        self.runner, self.arrivals = runner, arrivals
        self.scheduler = Scheduler(runner, max_running=max_running, step_tokens=step_tokens)
        self.sequences = {}
        self.opened, self.waited, self.plans, self.step = [], {}, [], 0

    def run(self):
        opened = self.runner.open
        self.runner.open = lambda key, *rest: (self.opened.append(key), opened(key, *rest))
        while self.step <= 12 or self.sequences:
            self.arrive()
            self.advance()
            self.step += 1
            assert self.step < 12 + self.work(range(len(self.arrivals))) + 2, "something waits forever"

    def work(self, keys):
        """Steps that these sequences need one after another, at one tile or token a step."""
        return sum(-(-len(self.arrivals[key][1]) // PAGE) + self.arrivals[key][2] for key in keys)

    def arrive(self):
        for key, (step, prompt, new, cancelled) in enumerate(self.arrivals):
            if step == self.step:
                sequence = Sequence(
                    key=key, request=key, prompt_ids=prompt, capacity=len(prompt) + new, root="", scores_prompt=new == 6
                )
                self.sequences[key] = sequence
                self.scheduler.waiting.append(sequence)
                self.waited[key] = 0
            if cancelled == self.step and key in self.sequences:
                self.scheduler.end(self.sequences.pop(key))

    def advance(self):
        scheduler = self.scheduler
        assert scheduler.admit() == []
        for sequence in scheduler.waiting:
            self.waited[sequence.key] += 1
        plan = scheduler.plan()
        self.plans.append(plan)
        assert bool(plan) == bool(self.sequences), "a step without progress"
        assert sum(len(span.token_ids) for _, span in plan) <= scheduler.step_tokens
        in_plan = [sequence for sequence, _ in plan]
        assert in_plan[: len(scheduler.decoding)] == scheduler.decoding, "every decoding sequence has its token"
        in_prefill = in_plan[len(scheduler.decoding) :]
        assert in_prefill == scheduler.prefilling[: len(in_prefill)], "prompts in order"
        assert in_prefill or not scheduler.prefilling, "the first prompt always moves on"
        if plan:
            self.runner.run([span for _, span in plan])
        for sequence, span in plan:
            scheduler.computed(sequence, span)
            if sequence.num_missing == 0:  # with up to two guesses, all of which are right
                left = sequence.capacity - sequence.num_computed
                sequence.next_ids = [7] * min(left, 1 + sequence.key % 3)
            if sequence.num_computed == sequence.capacity:
                scheduler.end(self.sequences.pop(sequence.key))
        if not self.runner.is_paged:
            assert all(sequence.path == [] for sequence in scheduler.decoding), "a hit is held until it was copied"
        pool = scheduler.pool
        assert pool.num_free + pool.num_cached + pool.num_running == pool.num_pages


def simulate(is_paged, arrivals, *, max_running=3, step_tokens=1, num_pages=7):
    simulation = Simulation(
        TokenRunner(is_paged=is_paged, num_pages=num_pages, page_tokens=PAGE),
        arrivals,
        max_running=max_running,
        step_tokens=step_tokens,
    )
    simulation.run()
    return simulation


@pytest.mark.parametrize("is_paged", [False, True], ids=["slabs", "paged"])
@settings(max_examples=80, deadline=None, derandomize=True)
@given(arrivals(), st.integers(1, 4), st.integers(1, 20), st.integers(6, 14))
def test_all_that_arrives_runs_in_order_within_the_budget(is_paged, arrivals, max_running, step_tokens, num_pages):
    done = simulate(is_paged, arrivals, max_running=max_running, step_tokens=step_tokens, num_pages=num_pages)

    assert done.opened == sorted(done.opened), "admitted in the order of arrival"
    for key, waited in done.waited.items():
        assert waited <= done.work(range(key)) + 1, "waits for no more than the work ahead of it"
    for key, (_, prompt, _, cancelled) in enumerate(done.arrivals):
        tiles = [span for plan in done.plans for sequence, span in plan if sequence.key == key and span.is_prefill]
        ends = [span.begin + len(span.token_ids) for span in tiles]
        assert [span.begin for span in tiles[1:]] == ends[:-1], "each tile once, in order"
        assert all(span.begin % PAGE == 0 for span in tiles)
        if cancelled is None:
            assert ends[-1] == len(prompt)
            assert [span.num_logits for span in tiles][-1] >= 1
    pool = done.scheduler.pool
    assert pool.num_running == 0
    assert done.runner.capacities == {}
    assert set(done.runner.pages) <= set(range(pool.num_pages))
    if not is_paged:
        assert len(done.runner.pages) == pool.num_cached, "memory of free pages is given back"


@pytest.mark.parametrize("is_paged", [False, True], ids=["slabs", "paged"])
def test_prompts_that_begin_alike_and_come_together_are_computed_once(is_paged):
    prompt = tuple(range(5, 14))
    done = simulate(
        is_paged, [(0, prompt, 1, None), (0, (*prompt[:8], 30), 1, None), (0, prompt, 1, None)], num_pages=12
    )
    computed = [len(span.token_ids) for plan in done.plans for _, span in plan if span.is_prefill]
    assert sum(computed) == 9 + 1 + 1


def test_a_prompt_of_whole_pages_computes_its_last_page_again():
    prompt = tuple(range(5, 13))
    done = simulate(True, [(0, prompt, 1, None), (6, prompt, 1, None)])
    spans = [span for plan in done.plans for _, span in plan if span.is_prefill]
    assert [(span.begin, len(span.token_ids)) for span in spans] == [(0, 4), (4, 4), (4, 4)]


def test_a_hit_gives_way_when_memory_is_short():
    """A prompt that fits the pool only without holding its own cached beginning: with slabs it would wait forever."""
    prompt = tuple(range(5, 20))
    done = simulate(False, [(0, prompt, 1, None), (12, prompt, 13, None)], num_pages=7)
    assert done.scheduler.pool.num_running == 0


@pytest.mark.parametrize("is_paged", [False, True], ids=["slabs", "paged"])
def test_waiting_for_memory_is_told_from_waiting_for_a_place(is_paged):
    runner = TokenRunner(is_paged=is_paged, num_pages=4, page_tokens=PAGE)
    scheduler = Scheduler(runner, max_running=2, step_tokens=8)
    for key, capacity in enumerate([9, 9, 9]):
        scheduler.waiting.append(Sequence(key=key, request=key, prompt_ids=(key + 5,), capacity=capacity, root=None))
    scheduler.admit()
    assert (scheduler.num_running, scheduler.is_short_of_pages) == (1, True)
    scheduler.waiting[0].capacity = 4
    scheduler.admit()
    assert (scheduler.num_running, scheduler.is_short_of_pages) == (2, False)
