"""Scores of packed rows against each sequence alone, and what packing saves."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_eval.harness import packing
from nemotron4_eval.harness.packing import ScoredSequence, plan_batches
from nemotron4_eval.harness.scoring import Scorer
from nemotron4_infer.weights.engine_weights import from_transformer


@pytest.fixture(scope="module")
def scorer(loaded):
    return Scorer(from_transformer(loaded.model))


def sequence(ids, num_targets):
    ids = np.array(ids, dtype=np.int64)
    return ScoredSequence(ids[:-1], ids[-num_targets:])


def scores(scorer, sequences, batch_tokens):
    found = {}
    for batch in plan_batches(sequences, batch_tokens):
        assert not found.keys() & set(batch.sequences.tolist())
        found |= dict(zip(batch.sequences.tolist(), scorer.score(batch), strict=True))
    return [found[index] for index in range(len(sequences))]


@torch.no_grad()
def alone(model, each):
    log_p_TV = model(torch.from_numpy(each.token_ids)[None])[0].double().log_softmax(-1)[each.num_context :]
    targets = torch.from_numpy(each.target_ids)
    return log_p_TV.gather(1, targets[:, None]).sum().item(), bool((log_p_TV.argmax(-1) == targets).all())


@st.composite
def sequence_sets(draw):
    """Sets that share few-shot prefixes, contexts, beginnings of contexts, all of a sequence or nothing."""
    token = st.integers(5, 9)
    few_shots = draw(st.lists(st.lists(token, max_size=24), min_size=1, max_size=2))
    chosen = []
    for _ in range(draw(st.integers(1, 6))):
        context = [3, *draw(st.sampled_from(few_shots)), *draw(st.lists(token, max_size=12))]
        for _ in range(draw(st.integers(1, 4))):
            options = draw(st.lists(token, min_size=1, max_size=10))
            chosen.append(sequence([*context, *options], draw(st.integers(1, len(options)))))
    return chosen


@settings(max_examples=25, deadline=None)
@given(sequence_sets(), st.sampled_from([1, 40, 1_000]), st.sampled_from([(8, 16, 24), (32, 512, 1_024)]))
def test_packed_scores_are_those_of_each_sequence_alone(loaded, scorer, chosen, batch_tokens, sizes):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("MIN_PREFIX", "MIN_SAVED", "LONG_CONTEXT"), sizes, strict=True):
            patch.setattr(packing, name, value)
        found = scores(scorer, chosen, batch_tokens)
    for (nats, greedy), each in zip(found, chosen, strict=True):
        expected, is_argmax = alone(loaded.model, each)
        assert nats == pytest.approx(expected, abs=2e-4)
        assert greedy == is_argmax


def questions(rng, prefix, num_questions):
    drawn = [[*prefix, *rng.choices(range(5, 300), k=9)] for _ in range(num_questions)]
    return [sequence([*context, letter], 1) for context in drawn for letter in (301, 302, 303, 304)]


def test_a_few_shot_prefix_and_a_question_are_computed_once():
    rng = random.Random(0)
    prefixes = [rng.choices(range(5, 300), k=40) for _ in range(2)]
    chosen = [each for prefix in prefixes for each in questions(rng, prefix, 20)]
    order = rng.sample(range(len(chosen)), len(chosen))
    batches = plan_batches([chosen[index] for index in order], 100)
    # Questions may share a little more than the prefix, which is then found once too.
    assert sum(len(batch.token_ids) for batch in batches) <= 2 * 20 * 9
    assert {tuple(batch.prefix_ids.tolist()) for batch in batches} == {tuple(prefix) for prefix in prefixes}
    assert sum(len(batch.places) for batch in batches) == 2 * 20
    assert sum(len(batch.pair_places) for batch in batches) == len(chosen)
    assert max(len(batch.token_ids) for batch in batches) <= 100


def test_the_layout_does_not_depend_on_the_order(scorer):
    rng = random.Random(1)
    chosen = questions(rng, [], 12) + questions(rng, rng.choices(range(5, 300), k=40), 20)
    order = rng.sample(range(len(chosen)), len(chosen))
    in_order = scores(scorer, chosen, 200)
    assert scores(scorer, [chosen[index] for index in order], 200) == [in_order[index] for index in order]


def test_two_contexts_that_begin_alike_lie_in_one_row():
    beginning, rest = list(range(10, 22)), [40, 41, 42]
    [batch] = plan_batches([sequence([*beginning, option, *rest], 3) for option in (50, 51)], 1_000)
    assert batch.token_ids.tolist() == [*beginning, 50, 40, 41, 51, 40, 41]
    assert batch.parents.tolist() == [*range(-1, 14), 11, 15, 16]
    assert batch.positions.tolist() == [*range(15), 12, 13, 14]
