"""The tasks of a suite, by benchmark, by path and by name."""

import re

import pytest

from nemotron4_eval.suites.selection import harness_tasks_dir, select_tasks
from nemotron4_eval.suites.suite import load_benchmark


def test_a_benchmark_s_tasks_come_first_and_each_once():
    found = select_tasks([load_benchmark("commonsense")], ["arc_easy"])
    assert [task.spec.name for task in found].count("arc_easy") == 1
    assert all(task.benchmark.name == "commonsense" and task.path.is_file() for task in found)
    assert found[0].tables == [3]


def test_a_file_is_a_task_of_nobody(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("task: mine\nnum_fewshot: 2\n")
    (task,) = select_tasks([], [str(path)])
    assert (task.spec.name, task.spec.shots, task.benchmark, task.tables, task.metric) == ("mine", 2, None, [], None)
    before = task.digest()
    path.write_text("task: mine\nnum_fewshot: 3\n")
    assert task.digest() != before


def test_a_file_with_the_name_of_another_task_does_not_take_its_place(tmp_path):
    benchmark = load_benchmark("commonsense")
    (tmp_path / "mine.yaml").write_text("task: arc_easy\ndataset_path: json\n")
    with pytest.raises(
        ValueError, match=r"suite\.tasks \(.*mine\.yaml\): its task has the name of another, arc_easy of"
    ):
        select_tasks([benchmark], [str(tmp_path / "mine.yaml")])
    names = ["arc_easy", str(harness_tasks_dir() / "arc" / "arc_easy.yaml")]
    assert select_tasks([benchmark], names) == select_tasks([benchmark], [])


def test_a_name_of_the_harness_is_found():
    (copa,) = select_tasks([], ["copa"])
    assert copa.path == harness_tasks_dir() / "super_glue/copa/default.yaml"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError) as error:
        select_tasks([], ["helaswag"])
    assert re.fullmatch(
        r"suite\.tasks \(helaswag\): is neither heldout_continuation, nor a file, nor a task of a benchmark or of the"
        r" LM Evaluation Harness \(nearest: hellaswag, .*\); give one of these, or the path of a task YAML",
        str(error.value),
    )
    assert str(error.value).count(" hellaswag,") == 1  # ours and the harness's have one name


@pytest.mark.parametrize("content", ["[1]", "tosk: a", "task: [a]", "task: 'cut", None])
def test_a_file_that_is_no_task_is_one_line(tmp_path, content):
    path = tmp_path / "bad.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError) as error:
        select_tasks([], [str(path)])
    assert str(error.value).startswith(f"suite.tasks ({path}): ")
    assert "\n" not in str(error.value)
