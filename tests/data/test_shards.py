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
    expected = f"{tmp_path}/x.bin: 4 bytes, but its .idx says 6: truncated or changed; make or copy it again"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"nonsense", "not a Megatron .idx file (it must begin with b'MMIDIDX\\x00\\x00')"),
        (
            b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 6, 0, 1),
            "version 1, dtype code 6; only version 1 with one of 1, 2, 3, 4, 5, 8 can be read",
        ),
        (
            b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 9, 10),
            "34 bytes, which does not fit its header of 9 sequences",
        ),
    ],
)
def test_a_foreign_or_truncated_index_is_refused(tmp_path, index, message):
    (tmp_path / "x.bin").write_bytes(b"")
    (tmp_path / "x.idx").write_bytes(index)
    with pytest.raises(ValueError) as error:
        Shard(tmp_path / "x")
    assert str(error.value) == f"{tmp_path}/x.idx: {message}"


def write_index(stem, code, sizes, first_sequences, pointers=None, dtype="<u2"):
    """An index as Megatron writes it, where documents may hold several sequences."""
    sizes = np.array(sizes, dtype="<i4")
    if pointers is None:
        pointers = (np.cumsum(sizes, dtype=np.int64) - sizes) * np.dtype(dtype).itemsize
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sizes), len(first_sequences))
    parts = [header, sizes.tobytes(), np.array(pointers, dtype="<i8").tobytes()]
    stem.with_name(stem.name + ".idx").write_bytes(b"".join([*parts, np.array(first_sequences, dtype="<i8").tobytes()]))


@pytest.mark.parametrize(("code", "dtype"), [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")])
def test_every_integer_width_and_documents_of_several_sequences(tmp_path, code, dtype):
    tokens = np.arange(100, 110).astype(dtype)
    (tmp_path / "x.bin").write_bytes(tokens.tobytes())
    write_index(tmp_path / "x", code, [3, 2, 4, 1], [0, 2, 2, 4], dtype=dtype)
    shard = Shard(tmp_path / "x")
    shard.check_index()
    assert shard.tokens.tolist() == list(range(100, 110))
    assert [shard[i].tolist() for i in range(len(shard))] == [[*range(100, 105)], [], [*range(105, 110)]]


@pytest.mark.parametrize(
    ("sizes", "first_sequences", "pointers", "message"),
    [
        ([2, 3], [0, 1, 2], [0, 2], "its sequences do not lie one after the other"),
        ([2, 2], [0, 2, 1], None, "its documents do not hold its 2 sequences in order"),
        ([2, 2], [1, 2], None, "its documents do not hold its 2 sequences in order"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path, sizes, first_sequences, pointers, message):
    (tmp_path / "x.bin").write_bytes(bytes(8))
    write_index(tmp_path / "x", 8, sizes, first_sequences, pointers)
    with pytest.raises(ValueError) as error:
        Shard(tmp_path / "x").check_index()
    assert str(error.value) == f"{tmp_path}/x.idx: {message}"


def test_megatron_reads_ours_and_we_read_megatron(tmp_path):
    indexed_dataset = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed (pip install megatron-core)"
    )
    documents = [[5, 6, 3], [7, 3], [60_000, 8, 3]]
    write(tmp_path / "ours", documents)
    theirs = indexed_dataset.IndexedDataset(str(tmp_path / "ours"))
    assert [theirs[i].tolist() for i in range(len(theirs))] == documents
    assert theirs.document_indices.tolist() == [0, 1, 2, 3]
    for dtype in (np.uint16, np.int32, np.int64):
        builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
        builder.add_document(np.array([5, 6, 7, 3]), [2, 2])
        builder.add_document(np.array([9, 3]), [2])
        builder.finalize(str(tmp_path / "theirs.idx"))
        shard = Shard(tmp_path / "theirs")
        shard.check_index()
        assert shard.tokens.dtype == dtype
        assert [shard[i].tolist() for i in range(len(shard))] == [[5, 6, 7, 3], [9, 3]]
