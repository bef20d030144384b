"""Stop strings: however a text is cut into pieces, the same is shown, and nothing of a stop."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemotron4_infer.sampling.stop_strings import StopStrings

# Few letters, so that stops overlap; some of them more than 16 bits wide.
letters = st.text("ab\N{PILE OF POO}é", max_size=30)
texts = letters | st.text(max_size=30)
stop_lists = st.lists(
    st.text("ab\N{PILE OF POO}é", min_size=1, max_size=4) | st.text(min_size=1, max_size=3), max_size=5
)


def up_to_stop(text, stops):
    """The definition: the text before the stop that is complete first, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))], True
    return text, False


@settings(max_examples=120, deadline=None)
@given(texts, stop_lists, st.lists(st.integers(0, 30), max_size=8))
@example("xabcd", ["abcd", "bc"], [])
@example("aab", ["ab"], [1, 2])
@example("aaab", ["aab"], [])
def test_pieces_join_to_the_text_before_the_stop(text, stops, cuts):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    expected, is_stopped = up_to_stop(text, stops)
    stream, shown, stopped = StopStrings(stops), "", False
    for begin, end in pairwise(places):
        piece, stopped = stream.push(text[begin:end])
        shown += piece
        assert expected.startswith(shown), "a part of a stop was shown"
        if stopped:
            break
        held = text[len(shown) : end]
        assert held == "" or any(stop.startswith(held) for stop in stops), "text was held back that begins no stop"
    assert stopped is is_stopped
    assert shown + ("" if stopped else stream.finish()) == expected


@pytest.mark.parametrize("stops", [["a" * 255 + "b"], [f"{'a' * size}b" for size in range(240, 256)]])
def test_a_character_costs_the_same_whatever_the_stops(stops):
    lookups, automaton = 0, StopStrings(stops)._automaton

    class Counted(list):
        def __getitem__(self, state):
            nonlocal lookups
            lookups += 1
            return super().__getitem__(state)

    plain, automaton._children = automaton._children, Counted(automaton._children)
    try:
        stream = StopStrings(stops)
        shown = "".join(stream.push("a" * 7)[0] for _ in range(2_000))
    finally:
        automaton._children = plain
    assert shown + stream.finish() == "a" * 14_000
    assert lookups < 5 * 14_000
