"""Harness tasks from YAML to metrics, records and counts."""

import json
import random

import numpy as np
import pytest
from served import tiny_chat_model

from nemotron4_eval.harness.model import EngineLM
from nemotron4_eval.harness.run import run_tasks

# lm-eval and the libraries below it warn about themselves; nothing here can act on that.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_a_users_task_file_is_run_on_the_users_data(loaded, tmp_path, capsys):
    data = tmp_path / "items.jsonl"
    items = [{"question": "the red", "answers": [" fox", " κόσμε"], "right": i % 2} for i in range(6)]
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    task = tmp_path / "colours.yaml"
    task.write_text(
        f"task: colours\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs:\n  data_files: {{test: {data}}}\n  cache_dir: {tmp_path / 'cache'}\n"
        f"doc_to_text: question\ndoc_to_choice: answers\ndoc_to_target: right\ntarget_delimiter: ''\n",
        encoding="utf-8",
    )
    run = run_tasks(EngineLM(loaded), [str(task)], limit=4)["colours"]
    # The same question six times, right answers taking turns: exactly half of the first four are right.
    assert (run.metrics["acc"], run.items) == (0.5, 4)
    assert run.stderrs["acc"] > 0
    assert capsys.readouterr().out == ""


def choice_task(name, items, **changes):
    """A multiple-choice task on items (question, answers, right)."""
    from datasets import Dataset

    documents = [dict(zip(("question", "answers", "right"), item, strict=True)) for item in items]
    return {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(documents)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "answers",
        "doc_to_target": "right",
        "metadata": {"version": 7.0},
    } | changes


LONG = " fox" * 80


def test_an_item_with_a_failed_request_is_wrong_and_the_others_are_as_they_were(loaded):
    good = [("the red", [" fox", " κόσμε"], right) for right in (0, 1)]
    # Either option may be right: the item is wrong all the same.
    failing = [("the old", [" dog", LONG], right) for right in (0, 1)] + [
        ("a", [LONG, LONG], right) for right in (0, 1)
    ]
    cut = [("the small bird sings. " * 30, [" tree", " river"], 0)]
    run = run_tasks(EngineLM(loaded), [choice_task("some", good + failing + cut)])["some"]
    assert run.items == 7
    assert (run.failed_items, run.cut_items) == (4, 1)
    assert [sample["acc"] for sample in run.samples[:6]].count(1.0) == 1
    assert [sample["acc"] for sample in run.samples[2:6]] == [0.0] * 4
    assert run.metrics["acc"] == sum(sample["acc"] for sample in run.samples) / 7
    assert "does not fit in the model's context of 64" in run.samples[2]["failed"]
    assert [sample.get("cut", False) for sample in run.samples] == [False] * 6 + [True]
    assert (run.version, run.shots) == ("7.0", 0)
    assert run.samples[0]["arguments"] == [("the red", "  fox"), ("the red", "  κόσμε")]


def test_all_tasks_are_asked_at_once_and_draw_the_shots_of_each_alone(loaded):
    items = [(f"the {word}", [" fox", " dog"], index % 2) for index, word in enumerate(["red", "old", "small", "tree"])]
    tasks = [choice_task(name, items, num_fewshot=2) for name in ("one", "two")]
    asked = []

    class Counting(EngineLM):
        def loglikelihood(self, requests, **rest):
            asked.append(len(requests))
            return super().loglikelihood(requests, **rest)

    state = random.getstate(), np.random.get_state()[1].tolist()
    runs = run_tasks(Counting(loaded), tasks, seed=3)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state
    assert asked == [16]
    alone = run_tasks(Counting(loaded), tasks[1:], seed=3)
    assert [each["arguments"] for each in runs["two"].samples] == [each["arguments"] for each in alone["two"].samples]
    assert runs["two"].metrics == alone["two"].metrics
    assert runs["two"].shots == 2
    other = run_tasks(Counting(loaded), tasks[1:], seed=4)["two"].samples
    assert [each["arguments"] for each in other] != [each["arguments"] for each in alone["two"].samples]


def test_a_group_has_its_own_metrics(loaded):
    from lm_eval.api.group import Group, GroupConfig
    from lm_eval.api.task import ConfigurableTask

    items = [("the red", [" fox", " dog"], index % 2) for index in range(4)]
    config = GroupConfig(group="both", aggregate_metric_list=[{"metric": "acc", "weight_by_size": True}])
    group = Group.from_config(config)
    group.add(ConfigurableTask(config=choice_task("first", items)))
    group.add(ConfigurableTask(config=choice_task("second", items[:3])))
    runs = run_tasks(EngineLM(loaded), [group])
    assert {name: run.items for name, run in runs.items()} == {"first": 4, "second": 3, "both": 7}
    first, second, both = (runs[name].metrics["acc"] for name in ("first", "second", "both"))
    assert both == pytest.approx((4 * first + 3 * second) / 7)
    assert runs["both"].stderrs["acc"] > 0


def test_the_harnesss_own_command_knows_the_model(tmp_path, monkeypatch, capsys):
    import lm_eval.__main__
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from nemotron4_eval.lm_eval import main

    model_dir = tiny_chat_model(tmp_path)
    found = {}

    def command(model_args):
        """What the harness's command does once it has read its arguments; reading its task index takes seconds."""
        task = choice_task("some", [("the", [" of", " day"], 0)])
        manager = TaskManager(include_defaults=False)
        results = simple_evaluate("nemotron4", model_args, [task], task_manager=manager, batch_size="1", device="cpu")
        found.update(results["results"]["some"])

    arguments = f"pretrained={model_dir},dtype=fp32,document_start=none,cache={tmp_path / 'results.sqlite'}"
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: command(arguments))
    main()
    assert found["acc,none"] in (0.0, 1.0)
    for wrong, message in {
        "pretrained=nowhere": "model_dir (nowhere): is not a directory; give the export of a run, e.g. "
        "runs/demo/latest/export",
        "pretrained=x,dtype=fp64": "model_args.dtype (fp64): 'fp64' is not a valid DType",
        "pretrained=x,document=none": "model_args.document (None): is not one of pretrained, dtype, quantization, "
        "processes, document_start, cache, seed",
    }.items():
        monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda wrong=wrong: command(wrong))
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1] == message
