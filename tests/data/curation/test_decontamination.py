"""Documents that hold a part of an evaluation item are dropped, by benchmark."""

import gzip
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.config import DecontaminationConfig
from nemotron4_data.curation.decontamination import Decontamination, ItemCount, benchmark_files

ITEM = "Which of the following gases makes up the largest part of the air that we breathe every single day on Earth?"
OTHER = "A train leaves the old station at noon and reaches the harbour after forty minutes without stopping anywhere."
FILLER = "It had rained for three days before anybody thought of closing the windows on the upper floor. " * 3


@pytest.fixture
def step_of(tmp_path):
    def make(ngram_words=13, **benchmarks):
        for name, (file, content) in benchmarks.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        files = {name: [f"{tmp_path}/{name}/*"] for name in benchmarks}
        return Decontamination(DecontaminationConfig(domains=["english"], benchmarks=files, ngram_words=ngram_words))

    return make


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("test.jsonl", json.dumps({"question": ITEM, "answer": "B"}) + "\n\n" + json.dumps({"question": OTHER})),
        ("test.jsonl.gz", gzip.compress(json.dumps({"question": ITEM}).encode())),
        ("test.json", json.dumps({"data": [{"paragraphs": [{"qas": [{"question": ITEM, "id": 1}]}]}]}, indent=1)),
        ("test.tsv", f"id\tquestion\tanswer\n1\t{ITEM}\tB\n"),
        ("test.txt", OTHER + "\n\n" + ITEM.replace(" air", "\n air")),
    ],
)
def test_every_format_is_read(step_of, document, file, content):
    step = step_of(quiz=(file, content))
    assert step(document(f"{FILLER}{ITEM}{FILLER}")) == "quiz"
    assert step(document(FILLER)) is None


def test_case_punctuation_and_white_space_do_not_hide_an_item(step_of, document):
    step = step_of(quiz=("test.txt", ITEM))
    assert step(document(FILLER + "\n\t".join(ITEM.upper().split()) + "!!")) == "quiz"
    assert step(document(FILLER + ITEM.replace(" ", " — "))) == "quiz"


def test_thirteen_words_in_a_row_count(step_of, document):
    step = step_of(quiz=("test.txt", ITEM))
    words = ITEM.split()
    assert step(document(FILLER + " ".join(words[4:17]) + "; " + FILLER)) == "quiz"
    assert step(document(FILLER + " ".join(words[4:16]) + "; " + FILLER)) is None
    assert step_of(8, quiz=("test.txt", ITEM))(document(" ".join(words[4:12]))) == "quiz"


def test_texts_are_not_read_across_their_ends(step_of, document):
    first, second = ITEM.split()[:10], OTHER.split()[:10]
    step = step_of(quiz=("test.jsonl", json.dumps([" ".join(first), " ".join(second)])))
    assert step(document(" ".join(first + second))) is None


def test_benchmarks_are_counted_and_named_in_order(step_of, document):
    step = step_of(zebra=("t.txt", OTHER), apes=("t.tsv", f"{ITEM}\tyes"), both=("t.txt", f"{OTHER}\n\n{ITEM}"))
    assert step(document(OTHER)) == "both"
    assert step(document(f"{OTHER} {ITEM}")) == "apes"
    assert step.counts == {"apes": ItemCount(2, 1), "both": ItemCount(2, 0), "zebra": ItemCount(1, 0)}


def test_chinese_characters_are_words(step_of, document):
    item = "下列哪一种气体在我们每天呼吸的空气中占最大的部分"
    step = step_of(quiz=("test.txt", item))
    assert step(document(f"今天下雨。{item}？今天下雨。", "zh", "multilingual/zh")) == "quiz"


def test_what_cannot_be_read_is_refused(tmp_path):
    key = "curation.decontamination.benchmarks.quiz"
    with pytest.raises(ValueError) as error:
        benchmark_files(DecontaminationConfig(benchmarks={"quiz": [f"{tmp_path}/*.jsonl"]}))
    assert str(error.value) == f"{key} ({tmp_path}/*.jsonl): matches no file; correct the path or the glob"
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError) as error:
        benchmark_files(DecontaminationConfig(benchmarks={"quiz": [f"{tmp_path}/a.parquet"]}))
    rule = "must end in one of .jsonl, .json, .tsv, .txt (also .gz, .xz, .zst)"
    assert str(error.value) == f"{key} ({tmp_path}/a.parquet): {rule}"
    (tmp_path / "b.jsonl").write_text('{"question": ')
    pattern = re.escape(f"curation.decontamination.benchmarks ({tmp_path}/b.jsonl): cannot be read (Expecting value")
    with pytest.raises(ValueError, match=pattern):
        Decontamination(DecontaminationConfig(benchmarks={"quiz": [f"{tmp_path}/b.jsonl"]}))


@settings(deadline=None)
@given(text=st.text())
def test_no_text_is_too_strange(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "item.txt"
    path.write_text(ITEM)
    step = Decontamination(DecontaminationConfig(benchmarks={"quiz": [str(path)]}))
    assert step({"text": text}) is None
    assert step({"text": f"{text} {ITEM} {text}"}) == "quiz"
