"""The .bin/.idx pair: bytes as Megatron-LM writes them, and back."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.shards import Shard, ShardWriter, token_dtype


def write(stem, documents, vocab_size=1000):
    writer = ShardWriter(stem, token_dtype(vocab_size))
    for document in documents:
        writer.append(np.array(document, dtype=np.int64), np.array([len(document)], dtype=np.int32))
    writer.close()


def test_bytes_are_those_of_the_format(tmp_path):
    write(tmp_path / "books.train", [[5, 6, 3], [7, 3]])
    assert (tmp_path / "books.train.bin").read_bytes() == struct.pack("<5H", 5, 6, 3, 7, 3)
    assert (tmp_path / "books.train.idx").read_bytes() == (
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, 8, 2, 3)
        + struct.pack("<2i", 3, 2)
        + struct.pack("<2q", 0, 6)
        + struct.pack("<3q", 0, 1, 2)
    )


@pytest.mark.parametrize(("vocab_size", "code", "size"), [(65_499, 8, 2), (65_500, 4, 4), (256_000, 4, 4)])
def test_width_follows_the_vocabulary(tmp_path, vocab_size, code, size):
    write(tmp_path / "x", [[1, vocab_size - 1]], vocab_size)
    assert (tmp_path / "x.idx").read_bytes()[17] == code
    assert (tmp_path / "x.bin").stat().st_size == 2 * size
    assert Shard(tmp_path / "x").tokens.tolist() == [1, vocab_size - 1]


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 60_000), max_size=20), max_size=20))
def test_round_trip(tmp_path_factory, documents):
    stem = tmp_path_factory.mktemp("shard") / "a.b"
    write(stem, documents)
    shard = Shard(stem)
    assert [shard[i].tolist() for i in range(len(shard))] == documents
    assert shard.offsets.tolist() == np.cumsum([0, *map(len, documents)]).tolist()


def test_a_short_bin_is_refused(tmp_path):
    write(tmp_path / "x", [[5, 6, 3]])
    (tmp_path / "x.bin").write_bytes(b"1234")
    with pytest.raises(ValueError) as error:
        Shard(tmp_path / "x")
    assert str(error.value) == f"{tmp_path}/x.bin: 4 bytes where its .idx says 6: rerun `nemotron4 prepare`"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"nonsense", "not a Megatron .idx file (it must begin with b'MMIDIDX\\x00\\x00')"),
        (
            b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 5, 0, 1),
            "version 1, dtype code 5; only version 1 with 4 or 8 is read",
        ),
        (
            b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 9, 10),
            "34 bytes, not what its header of 9 documents says",
        ),
    ],
)
def test_a_foreign_or_cut_index_is_refused(tmp_path, index, message):
    (tmp_path / "x.bin").write_bytes(b"")
    (tmp_path / "x.idx").write_bytes(index)
    with pytest.raises(ValueError) as error:
        Shard(tmp_path / "x")
    assert str(error.value) == f"{tmp_path}/x.idx: {message}"
