"""Long texts are encoded in parts: the ids are those of the whole, with this project's and foreign tokenizers."""

from io import BytesIO
from itertools import pairwise

import pytest
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data import text_cuts
from nemotron4_data import tokenizer as tokenizer_module
from nemotron4_data.tokenizer import Tokenizer

OURS = {
    "model_type": "bpe",
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "byte_fallback": True,
    "allow_whitespace_only_pieces": True,
}
MODELS = {
    "ours": OURS,
    "pieces over spaces": {**OURS, "split_by_whitespace": False, "split_digits": False},
    "words of the user": {**OURS, "user_defined_symbols": ["ab ba", "aab", "12", "  ", "<a>"]},
    "unigram": {**OURS, "model_type": "unigram"},
    "characters": {**OURS, "model_type": "char"},
    "dummy prefix": {**OURS, "add_dummy_prefix": True},
    "white space stripped": {**OURS, "remove_extra_whitespaces": True},
    "NFKC": {**OURS, "normalization_rule_name": "nmt_nfkc"},
    "no byte pieces": {**OURS, "byte_fallback": False},
}
CUT = ("ours", "pieces over spaces", "words of the user")
ALPHABET = "aab b12.\n\té\u0301ﬁÅ日本x\u2581"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    found = {}
    for name, changed in MODELS.items():
        lines = [
            f"{'ab' * (a % 5)} ba{'a' * (b % 3)}b {a}{b} abba  aab日本é {a * b}" for a in range(40) for b in range(9)
        ]
        model = BytesIO()
        settings = {"vocab_size": 300, "hard_vocab_limit": False, "minloglevel": 2, "pad_id": 3, **changed}
        if settings["model_type"] == "char":
            settings["vocab_size"] = 290
        spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **settings)
        path = tmp_path_factory.mktemp("models") / "tokenizer.model"
        path.write_bytes(model.getvalue())
        found[name] = Tokenizer(path)
    return found


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(text_cuts, "PART_CHARACTERS", 2)
    monkeypatch.setattr(tokenizer_module, "PART_CHARACTERS", 2)
    monkeypatch.setattr(tokenizer_module, "_PARTS_AT_A_TIME", 3)


def encoded_whole(tokenizer, text):
    """As SentencePiece encodes what is between literal U+2581."""
    first, *rest = (tokenizer._processor.encode(plain) for plain in text.split("\u2581"))
    return first + [token for ids in rest for token in (*tokenizer._space_mark_ids, *ids)]


@pytest.mark.parametrize("name", MODELS)
def test_parts_encode_as_the_whole(tokenizers, name, small_parts):
    tokenizer = tokenizers[name]

    @settings(max_examples=120)
    @given(st.lists(st.text(ALPHABET, max_size=60) | st.text(max_size=12), max_size=4))
    def check(texts):
        expected = [encoded_whole(tokenizer, text) for text in texts]
        ids, lengths = tokenizer.encode_batch(texts)
        assert ids.tolist() == [token for ids in expected for token in ids]
        assert lengths.tolist() == [len(ids) for ids in expected]
        of_bytes = tokenizer.encode_batch([text.encode() for text in texts])
        assert [each.tolist() for each in of_bytes] == [ids.tolist(), lengths.tolist()]
        assert tokenizer.decode_array(ids) == tokenizer.decode_bytes(ids.tolist())

    check()


@pytest.mark.parametrize("name", MODELS)
def test_only_models_that_allow_it_are_cut_and_only_where_nothing_joins(tokenizers, name, small_parts):
    text = "abba 12abab\naab ba" * 20
    parts = tokenizers[name]._cuts.parts(text)
    assert "".join(parts) == text
    assert (len(parts) > 20) == (name in CUT)
    # A place inside "ab" is none: the ids would be others there.
    assert not any(left.endswith("a") and right.startswith("b") for left, right in pairwise(parts))
    middle = tokenizers["ours"].encode("a") + tokenizers["ours"].encode("b")
    assert middle != tokenizers["ours"].encode("ab")


def test_a_text_without_a_place_to_cut_stays_whole(tokenizers, small_parts):
    assert tokenizers["ours"]._cuts.parts("ab" * 50) == ["ab" * 50]
    assert tokenizers["ours"]._cuts.parts("") == []
