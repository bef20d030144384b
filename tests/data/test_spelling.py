"""Ids spell texts exactly when decoding them gives those texts, document by document."""

from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data import spelling

PIECES = [b"", b"a", b"b", b"ab", b"aaaaaaab", b"aaaaaaaab", b"b" * 16, b"a" * 17 + b"b"]
DOCUMENTS = st.lists(st.lists(st.integers(0, len(PIECES) - 1), max_size=8), max_size=5)


def bounds(parts):
    return np.array([0, *accumulate(map(len, parts))], np.int64)


def spells(documents, texts):
    ids = np.array([token for document in documents for token in document], np.uint16)
    content = np.frombuffer(b"".join(texts), np.uint8)
    return spelling.Spelling(PIECES).spells(ids, bounds(documents), content, bounds(texts))


@pytest.mark.parametrize("window", [1, 3, 1 << 15])
def test_ids_spell_what_they_decode_to(monkeypatch, window):
    monkeypatch.setattr(spelling, "_IDS_AT_A_TIME", window)

    @settings(max_examples=200)
    @given(DOCUMENTS, st.data())
    def check(documents, data):
        texts = [b"".join([PIECES[token] for token in document]) for document in documents]
        assert spells(documents, texts)
        joined = b"".join(texts)
        if joined:
            at = data.draw(st.integers(0, len(joined) - 1))
            other = joined[:at] + bytes([joined[at] ^ 1 << data.draw(st.integers(0, 7))]) + joined[at + 1 :]
            assert not spells(documents, [other[start:end] for start, end in pairwise(bounds(texts))])
            assert not spells(documents, [*texts[:-1], texts[-1] + b"a"])
            assert not spells(documents, [b"a" + texts[0], *texts[1:]])
            places = st.lists(st.integers(0, len(joined)), min_size=len(texts) - 1, max_size=len(texts) - 1)
            cut = [joined[start:end] for start, end in pairwise([0, *sorted(data.draw(places)), len(joined)])]
            assert spells(documents, cut) == (cut == texts)

    check()
