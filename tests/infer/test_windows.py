"""Every token scored once, with the context promised."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nemotron4_infer.windows import batch_windows, document_windows, window_arrays

EOS = 99


@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_each_token_is_scored_once_with_enough_context(num_tokens, window, data):
    stride = data.draw(st.integers(1, window))
    windows = list(document_windows(0, num_tokens, window, stride))
    scored = [position for w in windows for position in range(w.scored_from, w.end)]
    assert scored == list(range(num_tokens))
    for w in windows:
        assert w.length <= window
        assert w.length == window or w.begin == 0
        assert w.begin == 0 or w.scored_from - w.begin >= window - stride


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 100))
def test_batches_hold_every_window_within_the_budget(lengths, window, budget):
    windows = [w for i, n in enumerate(lengths) for w in document_windows(i, n, window, max(1, window // 2))]
    batches = list(batch_windows(windows, budget))
    assert sorted((w for b in batches for w in b), key=lambda w: (w.document, w.begin)) == windows
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(w.length for w in batch) <= budget


def test_arrays_shift_by_one_and_start_documents_after_end_of_sequence():
    documents = [np.array([1, 2, 3, 4, 5], dtype=np.uint16), np.array([7, 8], dtype=np.uint16)]
    windows = [*document_windows(0, 5, 3, 2), *document_windows(1, 2, 3, 2)]
    inputs_BT, targets_BT, scored_BT = window_arrays(windows, documents, EOS)
    assert inputs_BT.tolist() == [[EOS, 1, 2], [2, 3, 4], [EOS, 7, EOS]]
    assert targets_BT.tolist() == [[1, 2, 3], [3, 4, 5], [7, 8, EOS]]
    assert scored_BT.tolist() == [[True, True, True], [False, True, True], [True, True, False]]


def test_padding_to_a_multiple_leaves_what_is_scored_alone():
    documents = [np.arange(10, 17), np.arange(20, 25)]
    windows = [w for i, tokens in enumerate(documents) for w in document_windows(i, len(tokens), 8, 8)]
    plain = window_arrays(windows, documents, EOS)
    padded = window_arrays(windows, documents, EOS, length_multiple=4)
    assert plain[0].shape == (2, 7)
    assert padded[0].shape == (2, 8)
    for before, after in zip(plain, padded, strict=True):
        np.testing.assert_array_equal(after[:, :7], before)
    assert not padded[2][:, 7:].any()
