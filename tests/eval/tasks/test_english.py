"""Commonsense, MMLU, BBH and GSM8K: the tables' cells, BBH's answers against published ones, and its prompts."""

import gzip
import json
from collections import Counter, defaultdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from eval_items import write_olmo_files
from evalsets import evalsets

from nemotron4_eval.data.formats import find_format
from nemotron4_eval.data.locate import DataSource, load
from nemotron4_eval.suites.suite import HARNESS_PREFIX, TASKS_DIR, load_benchmark

# lm-eval and the libraries below it warn about themselves; nothing here can act on that.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

BENCHMARKS = [load_benchmark(name) for name in ("commonsense", "mmlu", "bbh", "gsm8k")]
SPECS = {spec.name: (benchmark, spec) for benchmark in BENCHMARKS for spec in benchmark.tasks}
HARNESS_TASKS = Path(find_spec("lm_eval").origin).parent / "tasks"


@cache
def config_of(name):
    """What the harness reads of a task's YAML."""
    from lm_eval.tasks._yaml_loader import load_yaml

    benchmark, spec = SPECS[name]
    harness_path = HARNESS_TASKS / spec.yaml.removeprefix(HARNESS_PREFIX)
    return load_yaml(harness_path if spec.yaml.startswith(HARNESS_PREFIX) else TASKS_DIR / benchmark.name / spec.yaml)


def task_of(name, source):
    """The harness's task over items of a source, as a suite makes it."""
    from lm_eval.api.task import ConfigurableTask

    _, spec = SPECS[name]
    config = {
        key: value for key, value in config_of(name).items() if key not in ("tag", "dataset_path", "dataset_name")
    }
    given = {"task": name, "num_fewshot": spec.shots, "custom_dataset": lambda **_: load(spec.dataset, source)}
    return ConfigurableTask(config=config | given)


def test_the_cells_are_those_of_the_paper():
    cells = [cell for benchmark in BENCHMARKS for cell in benchmark.cells]
    assert Counter((cell.table, cell.column) for cell in cells) == Counter(
        {
            **{(3, column): 1 for column in ("SIQA", "ARC-c", "ARC-e", "PIQA", "Winogrande", "HellaSwag")},
            (4, "BBH"): 2,
            (4, "MMLU"): 1,
            (5, "GSM8K"): 2,
            (11, "AVG"): 1,
            **{(11, column): 2 for column in ("Humanities", "Social sciences", "STEM", "Other")},
        }
    )
    assert {(cell.column, cell.metric) for cell in cells if cell.table == 3} == {
        *((column, "acc") for column in ("SIQA", "Winogrande")),
        *((column, "acc_norm") for column in ("ARC-c", "ARC-e", "PIQA", "HellaSwag")),
    }
    sizes = {(cell.table, cell.column): len(cell.tasks) for cell in cells}
    assert [sizes[11, column] for column in ("Humanities", "Social sciences", "STEM", "Other")] == [13, 12, 19, 13]
    assert (sizes[4, "MMLU"], sizes[11, "AVG"], sizes[4, "BBH"]) == (57, 57, 27)
    assert all(set(cell.tasks) <= set(SPECS) for cell in cells)
    assert len(SPECS) == sum(len(benchmark.tasks) for benchmark in BENCHMARKS) == 6 + 57 + 2 * 27 + 1
    assert {spec.shots for _, spec in SPECS.values() if spec.name.startswith("mmlu_")} == {5}


def test_groups_of_mmlu_are_the_tags_of_the_harness():
    tags = {"Humanities": "humanities", "Social sciences": "social_sciences", "STEM": "stem", "Other": "other"}
    for cell in load_benchmark("mmlu").cells:
        if cell.column in tags:
            assert {config_of(name)["tag"] for name in cell.tasks} == {f"mmlu_{tags[cell.column]}_tasks"}


def test_every_task_computes_the_metrics_of_its_cells_from_a_known_dataset():
    for benchmark in BENCHMARKS:
        for cell in benchmark.cells:
            metric, _, filter_name = cell.metric.partition(",")
            for name in cell.tasks:
                config = config_of(name)
                assert metric in {each["metric"] for each in config["metric_list"]}
                assert [filter_name] == [""] or filter_name in {each["name"] for each in config["filter_list"]}
    for _, spec in SPECS.values():
        assert find_format(spec.dataset)[0].splits


def test_prompts_are_made_of_local_items(tmp_path):
    write_olmo_files(tmp_path)
    source = DataSource(directory=tmp_path)
    for name in ("social_iqa", "arc_easy", "piqa", "winogrande", "hellaswag"):
        task = task_of(name, source)
        assert task.fewshot_context(task.eval_docs[0], 0)
    mmlu = task_of("mmlu_anatomy", source)
    prompt = mmlu.fewshot_context(mmlu.eval_docs[2], 5)
    shown = [line for line in prompt.splitlines() if line.endswith("?")]
    assert shown == ["dev 0?", "dev 1?", "dev 2?", "dev 3?", "dev 4?", "test 2?"]
    gsm8k = task_of("gsm8k_cot", source)
    prompt = gsm8k.fewshot_context(gsm8k.eval_docs[0], 8)
    assert prompt.count("The answer is") == 8
    assert prompt.endswith("Q: How much is 0 and 1?\nA:")


def test_answers_of_a_real_model_on_bbh_have_the_published_accuracies():
    folder = evalsets("bbh_codex_cot")
    published = json.loads((folder / "accuracy.json").read_text())
    config = config_of("bbh_cot_snarks")
    (custom,) = config["filter_list"][0]["filter"]
    right = defaultdict(list)
    with gzip.open(folder / "predictions.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            response = row["prediction"]
            for stop in config["generation_kwargs"]["until"]:
                response = response.partition(stop)[0]
            (answer,) = custom["filter_fn"]([[response]], [row])
            right[row["task"]].append(answer == row["target"])
    assert len(published) == 27
    accuracies = {task: 100 * sum(each) / len(each) for task, each in right.items()}
    assert accuracies == {task: pytest.approx(each["accuracy"], abs=1e-9) for task, each in published.items()}
    assert {task: len(each) for task, each in right.items()} == {t: each["items"] for t, each in published.items()}
    assert sum(accuracies.values()) / 27 == pytest.approx(73.71, abs=0.005)
    every = [each for task in right.values() for each in task]
    assert 100 * sum(every) / len(every) == pytest.approx(73.97, abs=0.005)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("So the answer is (A).", "(A)"),
        ("The answer is no. But wait. So the answer is yes.", "yes"),
        ("So the answer is ] } ]", "] } ]"),
        ("So the answer is 3.\nQ is not a stop", "3"),
        (" True", "True"),
        ("", ""),
    ],
)
def test_the_answer_is_taken_from_chains_of_thought_and_direct_responses(response, answer):
    for mode in ("cot", "direct"):
        (custom,) = config_of(f"bbh_{mode}_snarks")["filter_list"][0]["filter"]
        assert list(custom["filter_fn"]([[response]], [{}])) == [answer]


@pytest.fixture(scope="module")
def tiny_bbh(tmp_path_factory):
    directory = tmp_path_factory.mktemp("items")
    (directory / "bbh").mkdir()
    for _, spec in SPECS.values():
        if spec.dataset.startswith("bbh/"):
            items = {"examples": [{"input": f"{spec.dataset} {i}", "target": "(A)"} for i in range(2)]}
            (directory / f"{spec.dataset}.json").write_text(json.dumps(items))
    return directory


@pytest.mark.parametrize(("mode", "folder"), [("cot", "cot_fewshot"), ("direct", "fewshot")])
def test_prompts_of_bbh_are_the_harness_own(tiny_bbh, mode, folder):
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    source = DataSource(directory=tiny_bbh)
    for task in ("dyck_languages", "snarks"):
        ours = task_of(f"bbh_{mode}_{task}", source)
        config = load_yaml(HARNESS_TASKS / "bbh" / folder / f"{task}.yaml")
        del config["dataset_path"], config["dataset_name"]
        theirs = ConfigurableTask(config=config | {"custom_dataset": lambda *_, ours=ours, **__: ours.dataset})
        document = ours.eval_docs[0]
        assert ours.fewshot_context(document, 3) == theirs.fewshot_context(document, 3)


def test_the_harness_own_command_line_runs_bbh_from_our_folder(tiny_bbh, monkeypatch):
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    class FirstOption(LM):
        def generate_until(self, requests, disable_tqdm=False):
            return [" So the answer is (A)." if "step by step" in each.args[0] else " (A)" for each in requests]

        loglikelihood = loglikelihood_rolling = None

    monkeypatch.setenv("NEMOTRON4_EVAL_DATA", str(tiny_bbh))
    manager = TaskManager(include_defaults=False, include_path=str(TASKS_DIR / "bbh"))
    for mode in ("cot", "direct"):
        loaded = manager.load(f"nemotron4_bbh_{mode}")
        results = evaluate(lm=FirstOption(), task_dict=loaded, limit=1, bootstrap_iters=0)
        assert len(results["samples"]) == 27
        assert results["groups"][f"nemotron4_bbh_{mode}"]["exact_match,answer"] == 1.0
