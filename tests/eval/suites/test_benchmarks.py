"""A suite of benchmarks end to end: what is missing, what is written, and an evaluation that is killed and goes on."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nemotron4_common.terminal import plain_console
from nemotron4_eval import EvalJob, SuiteConfig, run_eval
from nemotron4_eval.suites.printing import print_missing
from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from multilingual_items import write_xcopa

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CONTEXT = 512
LANGUAGES = ("ht", "sw", "ta")


@pytest.fixture(scope="module")
def places(tokenizer, tokenizer_path, tmp_path_factory):
    """A model directory with a context of 512 tokens, and items of three languages and of a task of the user."""
    directory = tmp_path_factory.mktemp("suites")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_sequence_length=CONTEXT,
    )
    model = Transformer(config)
    initialise(model, 0, config)
    save_pretrained(model, directory / "export", dtype=torch.float32, tokenizer_model=tokenizer_path)
    for language in LANGUAGES:
        write_xcopa(directory / "data", language)
    (directory / "items.json").write_text('{"a": "the red", "b": [" fox", " dog"], "c": 0}\n' * 3)
    write_task(directory, "mine")
    return directory


def write_task(directory, name, more=""):
    path = directory / f"{name}.yaml"
    path.write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {directory}/items.json, "
        f"cache_dir: {directory}/cache}}\ntest_split: train\noutput_type: multiple_choice\ndoc_to_text: a\n"
        f"doc_to_choice: b\ndoc_to_target: c\ntarget_delimiter: ''\nmetric_list: [{{metric: acc}}]\n{more}"
    )
    return path


def job_of(places, out, *names, **options):
    tasks = [str(places / f"{name}.yaml") for name in ("mine", *names)]
    suite = {"name": "few", "heldout": False, "benchmarks": ["xcopa"], "data": str(places / "data"), "limit": 3}
    return EvalJob(model_dir=str(places / "export"), suite=SuiteConfig(**suite | options, tasks=tasks), out=str(out))


def result_of(job):
    return json.loads(job.result_path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(places):
    """The result of an evaluation that was not stopped."""
    job = job_of(places, places / "whole")
    assert run_eval(job) is None  # no row is complete
    return result_of(job)


def test_tasks_that_lack_something_are_listed_and_the_others_run(whole):
    ran = {"xcopa_mgpt_ht_0shot", "xcopa_mgpt_sw_0shot", "xcopa_mgpt_ta_0shot", "mine"}
    assert ran <= set(whole["tasks"])
    missing = {entry["task"]: entry for entry in whole["missing"]}
    assert len(missing) + len(whole["tasks"]) == 23
    assert missing["xcopa_mgpt_et_0shot"]["kind"] == "data"
    assert missing["xcopa_mgpt_et_0shot"]["tables"] == [7]
    assert missing["xcopa_mgpt_et_0shot"]["command"].startswith("git clone ")
    long = missing["xcopa_mgpt_ta_4shot"]
    assert long["kind"] == "context"
    assert long["message"].endswith(f"tokens for a typical item and its answer, the model has {CONTEXT}")


def test_the_tables_give_coverage_in_place_of_a_mean_over_what_is_left(whole):
    row, _ = whole["tables"]["7"]
    assert (row["mode"], row["coverage"], row["average"]["value"]) == ("0-shot", "3 of 11 languages", None)
    task = whole["tasks"]["xcopa_mgpt_ht_0shot"]
    assert row["cells"]["HT"]["value"] == task["value"] == task["metrics"]["acc"]
    assert task["stderrs"]["acc"] == task["stderr"]
    assert 0 < task["stderrs"]["gold_bits_per_byte"] < task["metrics"]["gold_bits_per_byte"]
    assert (task["items"], task["shots"], len(task["dataset_digest"])) == (3, 0, 64)
    assert "has no items of xcopa/et" in row["cells"]["ET"]["missing"]


def test_the_settings_are_all_that_a_result_depends_on(whole):
    settings = whole["settings"]
    assert (settings["document_start"], settings["limit"], settings["few_shot_seed"]) == ("eos", 3, 1234)
    assert settings["contamination"] == "unknown"
    assert settings["sandbox"] is None  # no programs were run
    assert settings["versions"].keys() >= {"lm_eval", "torch", "nemotron4-eval"}
    assert settings["model"]["fingerprint"].startswith("fp_")


def test_records_of_items_and_the_report_lie_beside_the_result(whole, places):
    out = places / "whole"
    records = [json.loads(line) for line in (out / whole["tasks"]["mine"]["samples"]).read_text().splitlines()]
    assert len(records) == 3
    assert "the red" in json.dumps(records[0]["arguments"])
    assert "3 of 11 languages" in (out / "report.html").read_text(encoding="utf-8")


KILLED = """
import os, signal, sys
from nemotron4_config import load_job
from nemotron4_eval import EvalJob
from nemotron4_eval.evaluation import run_eval
from nemotron4_eval.suites import run
write, written = run.Records.write, []
def write_and_die(self, ready, result):
    write(self, ready, result)
    written.append(ready)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
run.Records.write = write_and_die
run_eval(load_job(sys.argv[1], EvalJob))
"""


def test_a_killed_evaluation_goes_on_with_what_it_had_not_finished(whole, places, monkeypatch):
    from nemotron4_config.job_file import render_job
    from nemotron4_eval.suites import run

    job = job_of(places, places / "killed")
    (places / "job.yaml").write_text(render_job(job))
    done = subprocess.run([sys.executable, "-c", KILLED, str(places / "job.yaml")], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not job.result_path.exists()
    finished = {path.stem for path in (places / "killed/finished").iterdir()}
    assert len(finished) == 2
    computed = run_and_note(job, monkeypatch)
    assert sorted(computed + sorted(finished)) == sorted(whole["tasks"])
    again = result_of(job)
    assert {key: again[key] for key in ("tasks", "tables", "missing")} == {
        key: whole[key] for key in ("tasks", "tables", "missing")
    }
    assert run_and_note(job, monkeypatch) == []
    # Another limit is another evaluation: nothing of the first is taken for it.
    (places / "killed").rename(places / "other")
    assert sorted(run_and_note(job_of(places, places / "other", limit=2), monkeypatch)) == sorted(whole["tasks"])
    assert run.Records  # the room that is patched above


def run_and_note(job, monkeypatch):
    """Evaluate; the names of the tasks that were run."""
    from nemotron4_eval.suites import run

    names, run_tasks = [], run.run_tasks

    def noting(lm, configs, **options):
        names.extend(config["task"] for config in configs)
        return run_tasks(lm, configs, **options)

    with monkeypatch.context() as patched:
        patched.setattr(run, "run_tasks", noting)
        run_eval(job)
    return names


def test_a_fault_in_a_task_is_its_own(places, whole):
    (places / "faulty.py").write_text("def score(item, results):\n    raise KeyError('nothing')\n")
    write_task(places, "faulty", "process_results: !function faulty.score\n")
    job = job_of(places, places / "with_a_fault", "faulty", benchmarks=[])
    run_eval(job)
    result = result_of(job)
    assert result["tasks"]["mine"]["value"] == whole["tasks"]["mine"]["value"]
    assert result["missing"] == [
        {
            "task": "faulty",
            "tables": [],
            "kind": "fault",
            "message": "stopped by KeyError: 'nothing'",
            "command": "",
        }
    ]


def test_a_fault_in_one_task_of_a_benchmark_leaves_the_others(places, whole, monkeypatch):
    from nemotron4_eval.suites import run

    run_tasks = run.run_tasks

    def fails(lm, configs, **options):
        if any(config["task"] == "xcopa_mgpt_sw_0shot" for config in configs):
            raise ZeroDivisionError("division by zero")
        return run_tasks(lm, configs, **options)

    monkeypatch.setattr(run, "run_tasks", fails)
    job = job_of(places, places / "group")
    run_eval(job)
    result = result_of(job)
    assert set(whole["tasks"]) - set(result["tasks"]) == {"xcopa_mgpt_sw_0shot"}
    assert result["tables"]["7"][0]["cells"]["SW"]["missing"] == "stopped by ZeroDivisionError: division by zero"


def test_items_with_other_columns_are_missing_with_the_reason(places, tmp_path):
    write_xcopa(tmp_path, "sw")
    path = tmp_path / "xcopa/test.sw.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"choice1"', '"first"'), encoding="utf-8")
    write_xcopa(tmp_path, "ht")
    path = tmp_path / "xcopa/test.ht.jsonl"
    path.write_text(re.sub('"premise": ".*?"', '"premise": null', path.read_text(encoding="utf-8")), encoding="utf-8")
    job = job_of(places, tmp_path / "out", data=str(tmp_path))
    run_eval(job)
    missing = {entry["task"]: entry for entry in result_of(job)["missing"]}
    assert missing["xcopa_mgpt_sw_0shot"]["kind"] == "data"
    assert "choice1" in missing["xcopa_mgpt_sw_0shot"]["message"]
    unsuitable = missing["xcopa_mgpt_ht_0shot"]
    assert unsuitable["message"].startswith(f"suite.data ({tmp_path}): items of xcopa/ht do not suit its task (Attr")
    assert unsuitable["command"].startswith("git clone ")


def test_a_directory_with_files_of_others_is_refused(places, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError) as error:
        run_eval(job_of(places, tmp_path))
    assert str(error.value).startswith(f"out ({tmp_path}): contains notes.txt, which this program did not create")


def test_the_list_of_what_is_missing_says_once_what_one_command_brings(whole, capsys):
    print_missing(whole["missing"], plain_console())
    shown = capsys.readouterr().out
    assert shown.startswith(f"missing, for {len(whole['missing'])} tasks:\n")
    assert shown.count("git clone ") == 1
    assert "  data: xcopa_mgpt_et_0shot, xcopa_mgpt_id_0shot and 14 more\n" in shown
    assert f"the model has {CONTEXT}" in shown
