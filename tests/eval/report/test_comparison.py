"""Evaluations of several checkpoints on one page."""

import json
import random

import made_up_evaluation as made
import pytest
from messages import message_of

from nemotron4_config.main import main
from nemotron4_eval.report.comparison import EvalReportJob, write_comparison
from nemotron4_eval.report.differences import read_evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Directories of the evaluations of two checkpoints."""
    return made.write_run(tmp_path_factory.mktemp("run"), strengths=(0.3, 0.6))


@pytest.fixture(scope="module")
def compared(tmp_path_factory, run):
    """comparison.json by benchmark, and the page, of the evaluations given in the wrong order."""
    page = write_comparison(tmp_path_factory.mktemp("out") / "new", run[::-1], made.benchmarks())
    content = json.loads((page.parent / "comparison.json").read_text())
    return {each["benchmark"]: each for each in content["benchmarks"]} | {"page": page.read_text(), "all": content}


def scores(directory, task, metric):
    lines = (directory / "samples" / f"{task}.jsonl").read_text().splitlines()
    return [json.loads(line)[metric] for line in lines]


def test_checkpoints_are_in_the_order_of_their_tokens(compared):
    assert [each["trained_tokens"] for each in compared["all"]["evaluations"]] == [2 * 10**12, 4 * 10**12]
    assert "step-00040000 to step-00080000" in compared["page"]


def test_differences_are_of_pairs_of_scores_with_their_flips(compared, run):
    first, second = (scores(directory, "t4_mmlu", "exact_match") for directory in run)
    changes = [b - a for a, b in zip(first, second, strict=True)]
    mean = sum(changes) / 40
    stderr = (sum((change - mean) ** 2 for change in changes) / 39 / 40) ** 0.5
    (found,) = compared["MMLU"]["changes"]
    assert found["difference"] == pytest.approx(100 * mean)
    assert found["paired"] == {
        "difference": pytest.approx(mean),
        "stderr": pytest.approx(stderr),
        "items": 40,
        "gained": changes.count(1),
        "lost": changes.count(-1),
    }


def test_an_average_is_of_the_means_of_its_columns(compared, run):
    columns = [f"t3_{column.lower()}" for column in ("SIQA", "ARC-c", "ARC-e", "PIQA", "Winogrande", "HellaSwag")]
    means = [[sum(scores(each, name, "acc_norm")) / 40 for name in columns] for each in run]
    (found,) = compared["Commonsense"]["changes"]
    assert found["difference"] == pytest.approx(100 * (sum(means[1]) - sum(means[0])) / 6)
    assert found["paired"]["items"] == 240


def test_what_one_lacks_has_no_difference(compared):
    assert compared["TyDiQA"]["values"] == [{"value": None, "stderr": None}] * 2
    assert compared["TyDiQA"]["changes"][0]["why_not"] == "not measured in both"
    assert "– TyDiQA-GoldP: not in suite.data (evalsets)" in compared["page"]


def test_without_scores_of_items_there_is_a_plain_difference(tmp_path):
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory, strength in zip(directories, (0.3, 0.6), strict=True):
        made.save(directory, made.evaluation(strength=strength), {})
    page = write_comparison(tmp_path / "out", directories, made.benchmarks())
    mmlu = json.loads((tmp_path / "out/comparison.json").read_text())["benchmarks"][1]
    assert mmlu["changes"][0]["paired"] is None
    assert mmlu["changes"][0]["difference"] == pytest.approx(mmlu["values"][1]["value"] - mmlu["values"][0]["value"])
    assert "no scores of items" in page.read_text()


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("dataset_digest", "0" * 64, "dataset digest of t4_mmlu differs"),
        ("shots", 0, "shots of t4_mmlu differs"),
        ("items", 7, "items of t4_mmlu differs"),
        ("document_start", "none", "document_start differs: eos, none"),
    ],
)
def test_other_data_or_settings_are_not_compared(tmp_path, run, key, value, why):
    changed = json.loads((run[1] / "eval.json").read_text())
    if key == "document_start":
        changed["settings"][key] = value
    else:
        changed["tasks"]["t4_mmlu"][key] = value
    made.save(tmp_path / "other", changed, {})
    write_comparison(tmp_path / "out", [run[0], tmp_path / "other"], made.benchmarks())
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    mmlu = next(each for each in content["benchmarks"] if each["benchmark"] == "MMLU")
    assert (mmlu["changes"][0]["difference"], mmlu["changes"][0]["why_not"]) == (None, why)


def test_more_than_two_are_compared_with_their_neighbours_and_the_first_with_the_last(tmp_path):
    names = []
    for index in range(3):
        directory = tmp_path / str(index)
        whole = made.evaluation(strength=random.Random(index).random(), checkpoint="same", tokens=None)
        made.save(directory, whole | {"tables": {"4": whole["tables"]["4"]}, "missing": []}, {})
        names.append(str(directory))
    write_comparison(tmp_path / "out", [tmp_path / name for name in names], made.benchmarks())
    (mmlu, *_) = json.loads((tmp_path / "out/comparison.json").read_text())["benchmarks"]
    assert [(each["from"], each["to"]) for each in mmlu["changes"]] == [
        (names[0], names[1]),
        (names[1], names[2]),
        (names[0], names[2]),
    ]  # by directory, since all checkpoints are called the same
    assert "the order given" in (tmp_path / "out/comparison.html").read_text()


def test_the_verb_writes_the_page(tmp_path, run, capsys):
    out = tmp_path / "out"
    assert main(["eval", "report", f"out={out}", f"evaluations=[{run[0]},{run[1]}]"]) == 0
    assert capsys.readouterr().out == f"{out / 'comparison.html'}\n"
    assert main(["eval", "report", f"out={out}", f"evaluations=[{run[0]},{run[1]}]"]) == 0  # replaces its own


def test_mistakes_are_one_line(tmp_path, run):
    one, other = map(str, run)
    rule = "must be two or more directories that nemotron4 eval wrote, e.g. evaluations=[runs/a/eval,runs/b/eval]"
    assert message_of(ValueError, lambda: EvalReportJob(evaluations=[one])) == f"evaluations ([{one}]): {rule}"
    twice = message_of(ValueError, lambda: EvalReportJob(evaluations=[one, f"{one}/"]))
    assert twice.endswith("names a directory twice; leave one of them out")
    (tmp_path / "eval.json").write_text('{"bits_per_byte": {}}')
    rule = "its eval.json is of held-out text, not of benchmarks; run nemotron4 eval suite=paper"
    assert message_of(ValueError, read_evaluation, tmp_path) == f"evaluations ({tmp_path}): {rule}"
    (tmp_path / "eval.json").write_text("{")
    rule = "eval.json cannot be read (it is damaged); give directories that nemotron4 eval wrote"
    assert message_of(ValueError, read_evaluation, tmp_path) == f"evaluations ({tmp_path}): {rule}"
    assert "No such file or directory" in message_of(ValueError, read_evaluation, tmp_path / "absent")
    assert main(["eval", "report", f"out={tmp_path}", f"evaluations=[{one},{other}]"]) == 2  # not empty, not ours
