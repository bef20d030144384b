"""Prompt lookup: guesses are what followed before, and misses end them for a while."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_infer.lookup import Lookup


def followed(text, max_guesses):
    """The definition, by a search of the whole text: begin of what followed the latest longest match, and guesses."""
    for size in (3, 2, 1):
        for end in range(len(text) - 1, size - 1, -1):
            if size <= len(text) and text[end - size : end] == text[len(text) - size :]:
                longer = list(text)
                while len(longer) < len(text) + max_guesses:
                    longer.append(longer[end + len(longer) - len(text)])
                return longer[len(text) :]
    return []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(1, 5), max_size=10), st.integers(1, 7))
def test_guesses_are_what_followed_the_latest_longest_match(text, sizes, max_guesses):
    lookup, length = Lookup(max_guesses), 0
    for size in [0, *sizes]:
        length += size
        assert lookup.propose(text[:length]) == followed(text[:length], max_guesses)


def test_a_text_that_repeats_itself_is_guessed_beyond_its_end():
    assert Lookup(5).propose([7, 1, 2, 1, 2]) == [1, 2, 1, 2, 1]
    assert Lookup().propose([4, 4]) == [4, 4, 4]
    assert Lookup().propose([]) == Lookup().propose([4]) == Lookup().propose([1, 2, 3]) == []


def test_a_proposal_reads_only_what_is_new():
    class Counted(list):
        reads = 0

        def __getitem__(self, place):
            Counted.reads += len(range(*place.indices(len(self))))
            return super().__getitem__(place)

    lookup, text = Lookup(), Counted()
    for token in range(2_000):
        text.append(token % 500)
        lookup.propose(text)
    assert Counted.reads < 2_000 * 20


def test_after_four_misses_it_pauses_and_then_tries_again():
    lookup, text = Lookup(), [1, 2, 1]

    def rounds_until_a_guess():
        count = 0
        while not lookup.propose(text):
            text.append(text[-2])
            count += 1
        return count

    for _ in range(3):
        lookup.accepted(3, 0)
    lookup.accepted(0, 0)
    assert rounds_until_a_guess() == 0
    lookup.accepted(3, 1)
    for _ in range(3):
        lookup.accepted(3, 0)
    assert rounds_until_a_guess() == 0
    lookup.accepted(3, 0)
    assert rounds_until_a_guess() == 32
    assert lookup.propose(text) == text[-2:] + text[-2:-1]
    for _ in range(4):
        lookup.accepted(3, 0)
    assert rounds_until_a_guess() == 32
