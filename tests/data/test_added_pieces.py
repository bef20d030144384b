"""Pieces added to a trained tokenizer: ids after its own, and nothing else changes."""

import pytest
from messages import message_of
from raw_files import write_raw
from tiny_tokenizer import train_tiny_tokenizer

from nemotron4_data import Corpus, Tokenizer, TokenizerConfig, run_prepare
from nemotron4_data.added_pieces import add_pieces, num_shared_pieces


def test_added_pieces_come_after_the_others(corpus, tmp_path):
    old, path = corpus.tokenizer, tmp_path / "more.model"
    path.write_bytes(add_pieces(old.path, ["<|user|>", "Zyzzyva", "q" * 200]))
    new = Tokenizer(path)
    assert [new.piece(token) for token in range(old.vocab_size)] == [old.piece(n) for n in range(old.vocab_size)]
    assert [new.id_of(piece) for piece in ("<|user|>", "Zyzzyva", "q" * 200)] == [1_024, 1_025, 1_026]
    text = f"the Zyzzyva, {'q' * 200}"
    assert {1_025, 1_026} <= set(new.encode(text))
    marked = "a <|user|> b"
    assert new.encode(marked) == old.encode(marked), "a marker is not matched in text"
    assert new.decode(new.encode(text + marked)) == text + marked
    assert (new.eos_id, new.decode([1_024])) == (old.eos_id, "<|user|>")


def test_a_tokenizer_with_added_pieces_is_known_as_such(corpus, tmp_path):
    old, more, other = corpus.tokenizer.path, tmp_path / "more.model", tmp_path / "other.model"
    more.write_bytes(add_pieces(old, ["Zyzzyva"]))
    other.write_bytes(train_tiny_tokenizer())
    prefixed = tmp_path / "prefixed.model"
    prefixed.write_bytes(other.read_bytes() + b"\x1a\x02\x18\x01")  # normalizer_spec.add_dummy_prefix: true
    assert num_shared_pieces(old, old) == num_shared_pieces(old, more) == 1_024
    assert num_shared_pieces(more, old) is num_shared_pieces(other, old) is None
    assert Tokenizer(prefixed).encode("the") != Tokenizer(other).encode("the")
    assert num_shared_pieces(other, prefixed) is None, "the pieces are the same, but not the ids of a text"


def test_a_corpus_is_prepared_with_added_pieces(corpus, tmp_path, make_job):
    write_raw(tmp_path / "raw/a.jsonl", {"text": "a Zyzzyva", "source": "english/web", "split": "train"})
    for pieces in (["Zyzzyva"], ["Zyzzyva", "<|user|>"]):  # the second time, the tokenizer changes
        tokenizer = TokenizerConfig(model=str(corpus.tokenizer.path), extra_pieces=pieces)
        run_prepare(make_job(tmp_path / "raw", tmp_path / "out", tokenizer=tokenizer))
        made = Corpus.open(tmp_path / "out", verify=True)
        assert made.vocab_size == 1_024 + len(pieces)
    assert 1_024 in made.train("english/web")
    again = TokenizerConfig(model=str(made.tokenizer.path), extra_pieces=["Zyzzyva"])
    assert message_of(ValueError, run_prepare, make_job(tmp_path / "raw", tmp_path / "two", tokenizer=again)) == (
        f"tokenizer.extra_pieces (Zyzzyva): is already a piece of {made.tokenizer.path}, or given twice; leave it out"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"extra_pieces": ["a", "b"]},
            "tokenizer.extra_pieces (['a', 'b']): are added to an existing tokenizer; give it as tokenizer.model=PATH",
        ),
        (
            {"model": "m", "extra_pieces": ["a b"]},
            "tokenizer.extra_pieces ('a b'): must be text without white space; change it",
        ),
        (
            {"model": "m", "extra_pieces": [""]},
            "tokenizer.extra_pieces (''): must be text without white space; change it",
        ),
    ],
)
def test_wrong_pieces_are_refused(settings, message):
    assert message_of(ValueError, lambda: TokenizerConfig(**settings)) == message
