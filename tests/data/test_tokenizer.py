"""What the paper requires of its tokenizer: exact whitespace, single digits, byte fallback; and exact round trips."""

import html
import io
import json

import pytest
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from nemotron4_data import Corpus, StreamDecoder, Tokenizer, TokenizerConfig, run_prepare
from nemotron4_data.tokenise import encode_chunk
from nemotron4_data.train_tokenizer import source_rates, train_tokenizer, training_lines

EXACT = {
    "model_type": "bpe",
    "vocab_size": 300,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "byte_fallback": True,
}


def train_foreign(lines, **settings):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, hard_vocab_limit=False, minloglevel=2, **settings
    )
    return model


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@settings(max_examples=300)
@given(TEXT)
def test_any_unicode_is_restored(tokenizer, text):
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
def test_whitespace_and_marks_are_restored(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


WHITESPACE = st.text(st.sampled_from(" \t\n\r\u00a0\u2003\u3000"), max_size=12)
WORDS = st.sampled_from(["the", "Straße", "καλά", "日本", "def", "x=1", "", "🙂", "-", "\u2581"])


@settings(max_examples=200)
@given(st.lists(st.tuples(WHITESPACE, WORDS), max_size=8), WHITESPACE)
def test_whitespace_between_words_is_restored(tokenizer, parts, trailing):
    text = "".join(space + word for space, word in parts) + trailing
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


@settings(max_examples=300)
@given(st.binary(max_size=60).filter(lambda value: b"\0" not in value))
def test_any_bytes_are_restored(tokenizer, value):
    """Bytes that are not UTF-8 cannot be text; as Latin-1, or with their surrogates replaced, they can."""
    for text in (value.decode("latin-1"), value.decode("utf-8", errors="replace"), value.decode("utf-8", "ignore")):
        assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()
    # And the vocabulary spells every byte, so that any bytes at all are the bytes of some ids.
    ids = [tokenizer.id_of(f"<0x{byte:02X}>") for byte in value]
    assert tokenizer.decode_bytes(ids) == value


@settings(max_examples=200)
@given(st.text(st.sampled_from("0123456789٣५７ ab.-,_"), max_size=30))
def test_every_digit_is_alone_in_its_token(tokenizer, text):
    pieces = [tokenizer.piece(token) for token in tokenizer.encode(text)]
    spelled = [piece for piece in pieces if not piece.startswith("<0x")]
    ascii_digits = [piece for piece in spelled if set(piece) & set("0123456789")]
    assert ascii_digits == [character for character in text if character in "0123456789"]
    assert all(len(piece) == 1 for piece in spelled if any(map(str.isdigit, piece)))


@settings(max_examples=200)
@given(TEXT, TEXT)
def test_a_newline_separates_the_tokens(tokenizer, before, after):
    newline = tokenizer.encode("\n")
    assert len(newline) == 1
    assert tokenizer.encode(f"{before}\n{after}") == [*tokenizer.encode(before), *newline, *tokenizer.encode(after)]


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
    assert tokenizer.decode([*markers, 5]) == "<extra_id_0><extra_id_1>" + tokenizer.decode([5])
    assert tokenizer.decode([2, *tokenizer.encode("a b"), 3, 0]) == "a b"
    assert not {0, 1, 2, 3} & set(tokenizer.encode("<s></s><unk><pad>"))


@settings(max_examples=100)
@given(st.lists(TEXT | st.sampled_from(["<extra_id_0>", "<extra_id_1>", "<s>", "</s>", "<pad>", "<unk>"])).map("".join))
def test_no_text_makes_a_control_piece(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not set(range(6)) & set(ids)
    assert tokenizer.decode(ids) == text


def test_text_that_spells_a_control_piece_is_detected(tokenizer):
    assert tokenizer.spells_control(b"a<extra_id_1>b")
    assert tokenizer.spells_control(b"</s>")
    assert not tokenizer.spells_control(b"<extra_id_2> </ s> [INST]")


def test_documents_that_spell_control_pieces_are_counted(tokenizer):
    texts = ["In HTML <s> strikes out", "<extra_id_0>System", "neither"]
    lines = [json.dumps({"id": "x", "text": text}).encode() for text in texts]
    assert encode_chunk(b"\n".join(lines), tokenizer).control_text == 2


def test_foreign_turn_markers_are_text_and_other_symbols_stay(tmp_path):
    markers = ["<|im_start|>", "[INST]", "<start_of_turn>", "\u2581<extra>"]
    symbols = ["\n\n", "\u2581\u2581\u2581", "1984", "[0]", "<->", "Human:"]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_foreign(["the red fox"] * 9, user_defined_symbols=markers + symbols, **EXACT).getvalue())
    tokenizer = Tokenizer(path)
    ids = {piece: tokenizer.id_of(piece) for piece in markers + symbols}
    for marker in markers:
        text = f"the fox{marker}red{marker}".replace("\u2581", " ")
        assert ids[marker] not in tokenizer.encode(text)
        assert tokenizer.spells_control(text.encode())
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode([ids[marker]]) == marker.replace("\u2581", " ")
    for symbol in symbols:
        assert tokenizer.encode(symbol.replace("\u2581", " ")) == [ids[symbol]]
        assert not tokenizer.spells_control(symbol.encode())


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


def test_a_file_that_is_not_a_model_is_refused(tmp_path):
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


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """With settings common elsewhere: unigram, NFKC, a dummy prefix, no byte pieces, and another order of ids."""
    path = tmp_path_factory.mktemp("foreign") / "tokenizer.model"
    lines = [f"the {a} fox and {b} dogs" for a in ("red", "old", "shy") for b in range(90)]
    path.write_bytes(train_foreign(lines, vocab_size=60, bos_id=1, eos_id=2, unk_id=0, pad_id=-1).getvalue())
    return path


def test_a_foreign_tokenizer_is_used_unchanged(foreign, raw_directory, tmp_path, make_job, capsys):
    run_prepare(make_job(raw_directory, tmp_path / "corpus", tokenizer=TokenizerConfig(model=str(foreign))))
    prepared = Corpus.open(tmp_path / "corpus", verify=True)
    taken = prepared.tokenizer
    assert (prepared.dir / "tokenizer" / "tokenizer.model").read_bytes() == foreign.read_bytes()
    assert (taken.unk_id, taken.bos_id, taken.eos_id, taken.pad_id) == (0, 1, 2, -1)
    assert taken.encode("the red fox") == Tokenizer(foreign).encode("the red fox")
    assert "the red fox" in taken.decode(taken.encode("the red fox"))
    held_out = prepared.heldout("english/web")
    assert held_out.tokens[held_out.offsets[1] - 1] == 2
    table = prepared.manifest.stages["tokens"].facts["sources"]
    assert table["multilingual/ja"]["train"]["not_exact"] == table["multilingual/ja"]["train"]["documents"]
    # Said as a warning, with the cause, in the terminal and in the report.
    (found,) = prepared.manifest.stages["tokens"].facts["not_exact"].items()
    assert (found[0], found[1]["documents"]) == ("characters without a piece", 240)
    assert [example["id"] for example in found[1]["examples"]] == ["code/c/7", "code/c/15", "code/c/23"]
    line = (
        f"characters without a piece (240 documents; {found[1]['examples'][0]['detail']}; "
        "'code/c/7', 'code/c/15', 'code/c/23')"
    )
    assert (
        f"warning: 240 of 240 documents cannot be restored exactly from their tokens: {line}: train a tokenizer on "
        "this corpus (tokenizer.model=null) or give another\n"
    ) in capsys.readouterr().err
    assert html.escape(line) in (tmp_path / "corpus/report.html").read_text(encoding="utf-8")


def test_only_documents_that_change_are_named(foreign):
    texts = [" the red fox", "the red fox", " the 日", " old dogs"]  # a space is put before each, unless it has one
    lines = [json.dumps({"id": str(number), "text": text}).encode() for number, text in enumerate(texts)]
    assert [name for name, *_ in encode_chunk(b"\n".join(lines), Tokenizer(foreign)).not_exact] == ["1", "2"]


def test_why_a_text_cannot_be_restored(foreign):
    tokenizer = Tokenizer(foreign)
    assert tokenizer.why_not_exact("the 日 fox Ω日") == ("characters without a piece", "'日' 'Ω'")
    assert tokenizer.why_not_exact("the  red fox") == ("white space", "'the  ' becomes ' the '")
    assert tokenizer.why_not_exact("the \uff46ox") == ("normalisation", "'\uff46ox' becomes 'fox'")


def test_an_unusable_tokenizer_is_named(raw_directory, tmp_path, make_job):
    (tmp_path / "x.model").write_bytes(b"no model at all")
    job = make_job(raw_directory, tmp_path / "corpus", tokenizer=TokenizerConfig(model=str(tmp_path / "x.model")))
    with pytest.raises(ValueError, match=rf"^{tmp_path}/x\.model: not a SentencePiece model: "):
        run_prepare(job)


def test_a_foreign_tokenizer_without_eos_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_foreign(["a b c d"] * 9, vocab_size=20, eos_id=-1).getvalue())
    with pytest.raises(ValueError) as error:
        Tokenizer(path)
    assert str(error.value) == (f"{path}: the tokenizer has no EOS piece, which ends each document: train it with one")


def test_the_trained_model_records_the_paper_s_settings(tokenizer):
    """SentencePiece's own record of how it was trained, so that other tools treat the file the same."""
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.path.read_bytes())
    trained, normal = model.trainer_spec, model.normalizer_spec
    assert trained.model_type == trained.BPE
    assert trained.split_digits
    assert trained.byte_fallback
    assert trained.allow_whitespace_only_pieces
    assert list(trained.user_defined_symbols) == ["<extra_id_0>", "<extra_id_1>"]
    assert normal.name == "identity"
    assert not normal.add_dummy_prefix
    assert not normal.remove_extra_whitespaces
    assert sum(piece.type == piece.BYTE for piece in model.pieces) == 256
