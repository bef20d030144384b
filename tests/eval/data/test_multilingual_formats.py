"""Published forms of XCOPA, MGSM, TyDi QA and FLORES give the same items, and what differs is one line."""

import json
from pathlib import Path

import pytest
from evalsets import evalsets
from multilingual_items import (
    mgsm_example,
    tydiqa_item,
    write_flores,
    write_json_lines,
    write_lines,
    write_mgsm,
    write_xcopa,
)

from nemotron4_eval.data.locate import DataSource, MissingDataError, load


def test_xcopa_as_in_its_repository(tmp_path):
    write_xcopa(tmp_path / "flat", "ta")
    for split in ("val", "test"):
        text = (tmp_path / "flat" / "xcopa" / f"{split}.ta.jsonl").read_text().splitlines()
        write_lines(tmp_path / "clone" / "xcopa" / "data" / "ta" / f"{split}.ta.jsonl", text)
    flat, clone = (load("xcopa/ta", DataSource(directory=tmp_path / each)) for each in ("flat", "clone"))
    assert flat.digest == clone.digest
    assert (len(flat["validation"]), len(flat["test"])) == (12, 6)
    with pytest.raises(MissingDataError, match=r"has no items of xcopa/ht \(validation, test\); `git clone"):
        load("xcopa/ht", DataSource(directory=tmp_path / "flat"))


def test_the_command_for_xcopa_clones_beside_the_items_that_are_there(tmp_path):
    write_xcopa(tmp_path, "ta")
    with pytest.raises(MissingDataError) as caught:
        load("xcopa/sw", DataSource(directory=tmp_path))
    clone = caught.value.command.rpartition(" ")[2]  # git clones into no folder that has files
    write_xcopa(tmp_path / "more", "sw")
    for split in ("val", "test"):
        text = (tmp_path / "more" / "xcopa" / f"{split}.sw.jsonl").read_text().splitlines()
        write_lines(Path(clone, "data", "sw", f"{split}.sw.jsonl"), text)
    assert not (tmp_path / "xcopa" / "data").exists()
    assert len(load("xcopa/sw", DataSource(directory=tmp_path))["test"]) == 6


@pytest.mark.parametrize(("old", "new"), [('"label": 0', '"label": -1'), ('"question": "cause"', '"question": "why"')])
def test_a_value_that_no_item_has_is_one_line(tmp_path, old, new):
    write_xcopa(tmp_path, "ta")
    path = tmp_path / "xcopa" / "test.ta.jsonl"
    head, found, tail = path.read_text().rpartition(old)
    assert found
    path.write_text(head + new + tail)
    number = head.count("\n") + 1
    with pytest.raises(
        ValueError, match=rf"test\.ta\.jsonl, item {number}\): \w+ is .*, not one of .*; give"
    ) as caught:
        load("xcopa/ta", DataSource(directory=tmp_path))
    assert "\n" not in str(caught.value)


def test_mgsm_exemplars_as_source_are_read_and_not_run(tmp_path):
    write_mgsm(tmp_path / "json", ["te"])
    items = (tmp_path / "json" / "mgsm" / "mgsm_te.tsv").read_text()
    write_lines(tmp_path / "source" / "mgsm" / "mgsm_te.tsv", items.splitlines())
    examples = {
        language: {
            str(n): {"q": (each := mgsm_example(language, n))["question"], "a": each["answer"]} for n in range(1, 9)
        }
        for language in ("te", "en")
    }
    numbers = [mgsm_example("te", n)["answer_number"] for n in range(1, 9)]
    source = f"EXEMPLAR_NUMBER_ANSWERS = {numbers}\n\nMGSM_EXEMPLARS = {examples!r}\nraise SystemExit"
    write_lines(tmp_path / "source" / "mgsm" / "exemplars.py", source.splitlines())
    from_json, from_source = (load("mgsm/te", DataSource(directory=tmp_path / each)) for each in ("json", "source"))
    assert from_json.digest == from_source.digest
    assert from_json["train"]["english_answer"][0].startswith("Step-by-Step Answer: 1 + 2 = 3.")
    with pytest.raises(MissingDataError, match=r"has no items of mgsm/sw \(train, test\)"):
        load("mgsm/sw", DataSource(directory=tmp_path / "json"))


def test_tydiqa_as_squad(tmp_path):
    items = [tydiqa_item(language, n) for language in ("finnish", "telugu") for n in range(3)]
    write_json_lines(tmp_path / "rows" / "tydiqa" / "goldp_dev.jsonl", items)
    answers = [{"text": "green", "answer_start": item["answers"]["answer_start"][0]} for item in items]
    articles = [
        {"paragraphs": [{"context": item["context"], "qas": [{**item, "answers": [answer]}]}]}
        for item, answer in zip(items, answers, strict=True)
    ]
    published = json.dumps({"version": "TyDiQA-GoldP-1.1-for-SQuAD-1.1", "data": articles})
    write_lines(tmp_path / "squad" / "tydiqa" / "tydiqa-goldp-v1.1-dev.json", [published])
    rows, squad = (load("tydiqa/te", DataSource(directory=tmp_path / each)) for each in ("rows", "squad"))
    assert rows.digest == squad.digest
    assert rows["validation"]["id"] == ["telugu-0", "telugu-1", "telugu-2"]
    with pytest.raises(MissingDataError, match=r"has no items of tydiqa/ko \(validation\); `curl"):
        load("tydiqa/ko", DataSource(directory=tmp_path / "rows"))


def test_flores_files_stand_beside_each_other(tmp_path):
    write_flores(tmp_path, "devtest")
    lines = load("flores101/zh-fr", DataSource(directory=tmp_path))
    assert lines["devtest"][3] == {"source": "这是第 3 devtest 行。", "target": "Voici la ligne numéro 3 devtest."}
    for name, new in (("zho_simpl", "zho_Hans"), ("fra", "fra_Latn")):
        text = (tmp_path / "flores101" / f"{name}.devtest").read_text().splitlines()
        write_lines(tmp_path / "later" / "flores200_dataset" / "devtest" / f"{new}.devtest", text)
    assert load("flores101/zh-fr", DataSource(directory=tmp_path / "later")).digest == lines.digest
    with pytest.raises(MissingDataError, match=r"has no items of flores101/zh-ja \(devtest\); `curl"):
        load("flores101/zh-ja", DataSource(directory=tmp_path))
    write_flores(tmp_path / "with_dev", "devtest")
    write_flores(tmp_path / "with_dev", "dev")
    assert load("flores101/zh-fr", DataSource(directory=tmp_path / "with_dev")).digest != lines.digest  # other examples
    for name in ("zho_simpl", "fra"):
        text = (tmp_path / "flores101" / f"{name}.devtest").read_text().replace("\n", "\r\n")
        (tmp_path / "dos" / "flores101").mkdir(parents=True, exist_ok=True)
        (tmp_path / "dos" / "flores101" / f"{name}.devtest").write_bytes(f"\ufeff{text}".encode())
        (tmp_path / "none" / "flores101").mkdir(parents=True, exist_ok=True)
        (tmp_path / "none" / "flores101" / f"{name}.devtest").touch()
    assert load("flores101/zh-fr", DataSource(directory=tmp_path / "dos")).digest == lines.digest
    with pytest.raises(ValueError, match=r"zho_simpl\.devtest\): has no items of flores101/zh-fr; give"):
        load("flores101/zh-fr", DataSource(directory=tmp_path / "none"))
    write_lines(tmp_path / "flores101" / "fra.devtest", ["Une ligne."])
    with pytest.raises(ValueError, match=r"fra\.devtest\): has 1 lines, and .*zho_simpl\.devtest has 12 beside them"):
        load("flores101/zh-fr", DataSource(directory=tmp_path))


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        ("xcopa/et", {"validation": 100, "test": 500}),
        ("mgsm/th", {"train": 8, "test": 250}),
        ("tydiqa/ar", {"validation": 1}),
        ("flores101/zh-de", {"devtest": 1012}),
    ],
)
def test_published_files(dataset, counts):
    items = load(dataset, DataSource(directory=evalsets()))
    assert {split: len(rows) for split, rows in items.items()} == counts
