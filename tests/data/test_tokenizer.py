"""What the paper asks of its tokenizer: exact whitespace, single digits, byte fallback; and exact round trips."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data import StreamDecoder, Tokenizer, TokenizerConfig
from nemotron4_data.train_tokenizer import source_rates, train_tokenizer, training_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@settings(max_examples=300)
@given(TEXT)
def test_any_unicode_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_id not in ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  lead",
        "trail  ",
        "a  b   c",
        "\ttab\t\tin",
        "line\n\n\nbreak\r\n",
        "\u2581 mark \u2581\u2581",
        "\ufeffbom",
        "𝔘🙂é",
    ],
)
def test_whitespace_and_marks_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_each_digit_is_a_token(tokenizer):
    pieces = [tokenizer.piece(token) for token in tokenizer.encode("in 1984 and 31415926")]
    digits = [piece for piece in pieces if any(c.isdigit() for c in piece)]
    assert digits == list("198431415926")
    multiple = [
        tokenizer.piece(i) for i in range(tokenizer.vocab_size) if sum(map(str.isdigit, tokenizer.piece(i))) > 1
    ]
    assert [piece for piece in multiple if not piece.startswith("<0x")] == []


def test_no_piece_spans_a_newline(tokenizer):
    assert [i for i in range(tokenizer.vocab_size) if "\n" in tokenizer.piece(i)] == []
    assert [tokenizer.piece(token) for token in tokenizer.encode("\n\n")] == ["<0x0A>", "<0x0A>"]


def test_runs_of_spaces_have_pieces(tokenizer):
    assert len(tokenizer.encode("    ")) == 1


def test_unseen_characters_fall_back_to_bytes(tokenizer):
    assert [tokenizer.piece(token) for token in tokenizer.encode("🙂")] == ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]


def test_special_ids_and_markers(tokenizer):
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert tokenizer.vocab_size == 1024
    markers = [tokenizer.id_of("<extra_id_0>"), tokenizer.id_of("<extra_id_1>")]
    assert tokenizer.encode("<extra_id_0>System") == [markers[0], *tokenizer.encode("System")]
    assert markers[1] in tokenizer.encode("a<extra_id_1>b")
    assert tokenizer.decode([2, *tokenizer.encode("a b"), 3, 0]) == "a b"
    assert not {0, 1, 2, 3} & set(tokenizer.encode("<s></s><unk><pad>"))


def test_wrong_pieces_and_ids_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"^token id 1024 is outside the vocabulary of 1024$"):
        tokenizer.piece(1024)
    with pytest.raises(ValueError, match=r"the vocabulary has no piece '<extra_id_9>'$"):
        tokenizer.id_of("<extra_id_9>")


@settings(max_examples=100)
@given(TEXT)
def test_stream_decoder_gives_whole_characters(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = list(StreamDecoder(tokenizer).stream(ids))
    assert "".join(pieces) == text
    assert "" not in pieces


@settings(max_examples=100)
@given(st.lists(st.integers(0, 1023), max_size=30))
def test_stream_decoder_equals_decode_on_any_ids(tokenizer, ids):
    assert "".join(StreamDecoder(tokenizer).stream(ids)) == tokenizer.decode(ids)


def test_stream_decoder_holds_half_a_character(tokenizer):
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(token) for token in tokenizer.encode("🙂")] == ["", "", "", "🙂"]
    decoder.push(tokenizer.encode("🙂")[0])
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.model").write_bytes(b"no model at all")
    with pytest.raises(ValueError, match=r"x\.model: not a SentencePiece model: "):
        Tokenizer(tmp_path / "x.model")
    with pytest.raises(FileNotFoundError):
        Tokenizer(tmp_path / "y.model")


def test_training_twice_gives_the_same_bytes(corpus):
    sizes = {source: corpus.sizes(source)["bytes"] for source in corpus.source_names}
    config = TokenizerConfig(vocab_size=1024)
    documents = corpus.dir / "documents"
    trained = train_tokenizer(documents, sizes, config, 1234)
    assert trained == (corpus.dir / "tokenizer/tokenizer.model").read_bytes()
    assert train_tokenizer(documents, sizes, TokenizerConfig(vocab_size=1024, train_bytes=90_000), 1) != trained


def test_small_foreign_sources_are_upsampled():
    sizes = {"english/web": 8_000_000, "multilingual/de": 900_000, "multilingual/sw": 100_000, "code/c": 1_000_000}
    rates = source_rates(sizes, TokenizerConfig(upsampling_exponent=0.5))
    assert rates["multilingual/sw"] > rates["multilingual/de"] > rates["english/web"] == rates["code/c"]
    assert sum(rates[source] * sizes[source] for source in sizes) == pytest.approx(10_000_000)
    natural = source_rates(sizes, TokenizerConfig(upsampling_exponent=1.0))
    assert list(natural.values()) == [pytest.approx(1.0)] * 4
    foreign = sum(rates[source] * sizes[source] for source in sizes if source.startswith("multilingual/")) / 10_000_000
    assert foreign == pytest.approx(0.1**0.5 / (0.1**0.5 + 0.9))
    halved = source_rates(sizes, TokenizerConfig(train_bytes=5_000_000))
    assert halved["english/web"] == pytest.approx(rates["english/web"] / 2)


def test_training_lines_follow_the_rate(corpus):
    source = "english/web"
    sizes = {source: corpus.sizes(source)["bytes"]}
    config = TokenizerConfig(train_bytes=sizes[source] // 2)
    lines = list(training_lines(corpus.dir / "documents", sizes, config, seed=3))
    assert not any("\n" in line for line in lines)
    assert 0.3 < sum(len(line.encode()) for line in lines) / sizes[source] < 0.7
    assert lines == list(training_lines(corpus.dir / "documents", sizes, config, seed=3))
    assert lines != list(training_lines(corpus.dir / "documents", sizes, config, seed=4))
