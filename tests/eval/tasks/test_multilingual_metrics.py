"""Metrics of mgsm, tydiqa and flores: numbers however they are written, SQuAD's normaliser, scores of whole corpora."""

import math
import random
import statistics

import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU

from nemotron4_eval.data.flores_tokenizer import (
    FILE,
    bootstrap_stderr,
    current_flores_tokenizer,
    find_flores_tokenizer,
    spbleu_signature,
    use_flores_tokenizer,
)
from nemotron4_eval.tasks.flores import utils as flores
from nemotron4_eval.tasks.mgsm.utils import NO_NUMBER, last_number, right_number, stated_number
from nemotron4_eval.tasks.tydiqa.utils import f1, normalised

LINES = [
    ("Das ist eine kleine Katze.", "Das ist eine sehr kleine Katze."),
    ("Der Hund schläft", "Der alte Hund schläft unter dem Tisch."),
    ("猫が寝ている。", "猫がいま寝ている。"),
    ("", "Nichts."),
]


@pytest.fixture
def no_flores_tokenizer():
    yield use_flores_tokenizer(None)
    use_flores_tokenizer(None)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("18.00", "18"),
        ("-7", "-7"),
        ("−7", "-7"),
        ("9 - 10 = -1", "-1"),
        ("12-5", "5"),
        ("$2,125.", "2125"),
        ("2.125 €", "2125"),
        ("80 000 dollars", "80000"),
        ("80\u202f000", "80000"),
        ("1,234.50", "1234.5"),
        ("1.234,50", "1234.5"),
        ("1,23,456", "123456"),
        ("1.234.567", "1234567"),
        ("0,125", "0.125"),
        ("12,5", "12.5"),
        ("1, 2, 3", "3"),
        ("in 2 steps: 11.", "11"),
        ("১৮", "18"),
        ("౨,౧౨౫", "2125"),
        ("๑๘ บาท", "18"),
        ("１８個", "18"),
        ("0", "0"),
        ("none", NO_NUMBER),
    ],
)
def test_numbers(text, number):
    assert last_number([[text]], []) == [[number]]
    if number != NO_NUMBER:
        assert right_number({"answer_number": number}) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5 + 6 = 11. The answer is 11. Question: 3", "11"),
        ("the answer is: $1,500.", "1500"),
        ("The answer is US$ 15", "15"),
        ("The answer is **12**.", "12"),
        ("Die Antwort lautet 29.", "29"),
        ("La réponse est 1 000 €.", "1000"),
        ("5+6=11。答えは11です。", "11"),
        ("答案是 11。", "11"),
        ("Ответ — 11.", "11"),
        ("উত্তর হল ১১।", "11"),
        ("คำตอบคือ 11", "11"),
        ("Jibu ni 5.", "5"),
        ("సమాధానం 33.", "33"),
        ("La respuesta es 8", "8"),
        ("It is 11.", NO_NUMBER),
        ("The answer is not known, 5 or 6", NO_NUMBER),
    ],
)
def test_stated_numbers(text, number):
    assert stated_number([[text]], []) == [[number]]


def test_squad_normaliser():
    assert normalised(" The  Cat, a dog—an «owl»! ") == "cat dog— «owl»"  # only ASCII punctuation, as officially
    assert normalised("الكتاب") == "الكتاب"
    assert f1("green tree", "green tree house") == pytest.approx(0.8)
    assert f1("", "x") == 0


def test_scores_are_of_the_whole_corpus():
    translations, right = [line for line, _ in LINES], [[line for _, line in LINES]]
    whole = sacrebleu.corpus_bleu(translations, right).score / 100
    assert (
        flores.corpus_bleu_13a(LINES)
        == whole
        != pytest.approx(sum(sacrebleu.sentence_bleu(line, [other]).score for line, other in LINES) / 400)
    )
    assert flores.corpus_bleu_char(LINES) == sacrebleu.corpus_bleu(translations, right, tokenize="char").score / 100
    assert flores.corpus_chrf(LINES) == sacrebleu.corpus_chrf(translations, right, word_order=2).score / 100


def test_standard_error_of_a_corpus_score_is_that_of_drawn_lines():
    rng = random.Random(0)
    words = "die der Hund Katze schläft rennt klein alt Haus unter neben".split()  # noqa: SIM905
    lines = []
    for _ in range(30):
        right = rng.choices(words, k=8)
        lines.append((" ".join(w if rng.random() < 0.7 else rng.choice(words) for w in right), " ".join(right)))
    drawn = [flores.corpus_bleu_13a(rng.choices(lines, k=len(lines))) for _ in range(100)]
    assert bootstrap_stderr(BLEU(), lines) / 100 == pytest.approx(statistics.stdev(drawn), rel=0.2)
    assert 0 < flores.corpus_chrf_stderr(lines) < 0.1
    assert math.isnan(flores.corpus_chrf_stderr(lines[:1]))


def test_spbleu_is_sacrebleus_own(tokenizer_path, tmp_path, monkeypatch, no_flores_tokenizer):
    """With the demo's SentencePiece file where sacreBLEU expects that of FLORES."""
    models = tmp_path / "models"
    models.mkdir()
    (models / FILE).write_bytes(tokenizer_path.read_bytes())
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    own = BLEU(tokenize="flores101")
    expected = own.corpus_score([line for line, _ in LINES], [[line for _, line in LINES]]).score
    found = find_flores_tokenizer(None, tmp_path)
    assert found == models / FILE
    use_flores_tokenizer(found)
    assert flores.corpus_spbleu(LINES) == pytest.approx(expected / 100, abs=0)
    assert expected > 0
    assert 0 < flores.corpus_spbleu_stderr(LINES) < 0.5
    assert spbleu_signature(found) == str(own.get_signature())
    assert "tok:flores101" in spbleu_signature(found)


def test_no_other_tokenizer_stands_in_for_flores(tmp_path, monkeypatch, no_flores_tokenizer):
    monkeypatch.setenv("SACREBLEU", str(tmp_path / "sacrebleu"))
    (tmp_path / "tokenizer.model").write_bytes(b"another")
    assert find_flores_tokenizer(None, tmp_path) is None
    assert current_flores_tokenizer() is None
    assert math.isnan(flores.corpus_spbleu(LINES))
    with pytest.raises(
        ValueError, match=r"^suite\.flores_tokenizer \(.*tokenizer\.model\): .*is no SentencePiece model"
    ):
        find_flores_tokenizer(tmp_path / "tokenizer.model", None)
    with pytest.raises(ValueError, match=r"^suite\.flores_tokenizer \(.*absent\): .*it is not there"):
        find_flores_tokenizer(tmp_path / "absent", None)


def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SACREBLEU", str(tmp_path))
    monkeypatch.setattr("nemotron4_eval.data.flores_tokenizer.URL", (tmp_path / "absent").as_uri())
    assert find_flores_tokenizer(None, None, download=True) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
