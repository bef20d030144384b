"""`nemotron4 generate prompts_file=`: results in the order of the prompts, none lost or done twice over a kill."""

import fcntl
import json
import re
import shutil
from dataclasses import replace

import pytest

from nemotron4_infer import GenerateJob, SamplingConfig, run_generate
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.prompts_file import Journal, read_prompts

PROMPTS = ["the red", "the old dog", "Straße 1", "the red", "the", "fox and the big"]


@pytest.fixture
def job(model_dir, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "id": f"p{at}"}) + "\n" for at, text in enumerate(PROMPTS)))
    sampling = SamplingConfig(temperature=1.0, seed=3, max_new_tokens=12)
    out = tmp_path / "new" / "out.jsonl"
    return GenerateJob(model_dir=str(model_dir), prompts_file=str(path), out=str(out), sampling=sampling)


def results(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_each_prompt_is_continued_as_if_alone(job, tmp_path, capsys):
    job = replace(job, engine=EngineConfig(max_running=2, max_waiting=0), prompts_file=str(tmp_path / "prompts.txt"))
    (tmp_path / "prompts.txt").write_bytes("\n".join(PROMPTS).encode())
    run_generate(job)
    assert re.fullmatch(
        rf"6 prompts, \d+ tokens in \d+\.\d s, [\d,.]+ tokens/s; written to {re.escape(job.out)}\n",
        capsys.readouterr().out,
    )
    found = results(tmp_path / "new" / "out.jsonl")
    for index, (prompt, result) in enumerate(zip(PROMPTS, found, strict=True)):
        sampling = replace(job.sampling, seed=3 + index)
        run_generate(GenerateJob(model_dir=job.model_dir, prompt=prompt, sampling=sampling))
        out, err = capsys.readouterr()
        assert result["index"] == index
        assert prompt + result["text"] + "\n" == out
        assert (result["finish_reason"] == "stop") == err.endswith("(the model ended the text)\n")
        assert result["tokens"] == int(err.splitlines()[-1].split()[0]) + (result["finish_reason"] == "stop")
    assert found[0]["text"] != found[3]["text"]  # the same prompt, each with a seed of its own


def test_a_killed_job_continues(job, tmp_path, monkeypatch, capsys):
    run_generate(replace(job, out=str(tmp_path / "whole.jsonl")))
    add = Journal.add

    def add_two(self, result):
        add(self, result)
        if len(self.lines) % 2 == 0:
            raise KeyboardInterrupt

    out, partial = tmp_path / "new" / "out.jsonl", tmp_path / "new" / "out.jsonl.partial"
    monkeypatch.setattr(Journal, "add", add_two)
    for done in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run_generate(job)
        assert not out.exists()
        assert len(partial.read_text().splitlines()) == 1 + done
        with partial.open("a") as file:
            file.write('{"index": 4, "text": "cut')
    monkeypatch.undo()
    capsys.readouterr()
    run_generate(job)
    assert capsys.readouterr().out.startswith("6 prompts (4 done before), ")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [result["id"] for result in results(out)] == [f"p{at}" for at in range(6)]
    assert not partial.exists()


@pytest.fixture
def begun(job, tmp_path, monkeypatch):
    def stop(self, result):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            run_generate(job)
    return tmp_path / "new" / "out.jsonl.partial"


def refusal(job):
    with pytest.raises(ValueError) as caught:
        run_generate(job)
    return str(caught.value)


def test_a_fault_of_the_engine_ends_the_job(job, begun, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("seeded")

    monkeypatch.setattr("nemotron4_infer.engine.core.choose", fail)
    for asked in (job, GenerateJob(model_dir=job.model_dir, prompt="the")):
        with pytest.raises(RuntimeError, match=r"^the engine ended a request: RuntimeError: seeded$"):
            run_generate(asked)
    assert len(begun.read_text().splitlines()) == 1


def test_other_settings_do_not_continue_it(job, begun, tmp_path):
    since = f"since {begun} was begun; restore it, or give another out"
    other = replace(job, sampling=replace(job.sampling, temperature=0.5))
    assert refusal(other) == f"sampling.temperature: was 1.0, is 0.5 {since}"
    model_dir = shutil.copytree(job.model_dir, tmp_path / "model")
    weights = model_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert refusal(replace(job, model_dir=str(model_dir))) == f"model_dir: its content has changed {since}"
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "new"}\n')
    assert refusal(job) == f"prompts_file: its content has changed {since}"


def test_only_one_process_writes_a_file(job, begun):
    with begun.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refusal(job) == f"out ({job.out}): another process writes it; wait for it, or give another out"


def test_what_others_wrote_stays(job, tmp_path):
    out, partial = tmp_path / "new" / "out.jsonl", tmp_path / "new" / "out.jsonl.partial"
    out.parent.mkdir()
    partial.write_text("mine\n")
    assert refusal(job) == (f"out ({out}): {partial} was not begun by this version of the program; move it elsewhere")
    assert partial.read_text() == "mine\n"
    out.write_text("mine")
    assert refusal(job) == f"out ({out}): exists; remove it if it is not wanted, or give another out"


def test_a_prompt_that_is_too_long_is_named(job, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(f"the\n{'the red fox ' * 60}\n")
    message = refusal(replace(job, prompts_file=str(path)))
    assert re.fullmatch(rf"{re.escape(str(path))}:2: prompt \(\d+ tokens\): must be shorter .* 64 tokens; .*", message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1));"),
        (b"", 'not JSON (Expecting value: line 1 column 1 (char 0)); write {"prompt": "..."}'),
        (b"[" * 100_000, "not JSON ("),
        (b'"text"', 'not an object with the text `prompt`; write {"prompt": "..."}'),
        (b'{"prompt": 3}', 'not an object with the text `prompt`; write {"prompt": "..."}'),
        (b'{"prompt": "a", "id": [1]}', "id must be text or a whole number; correct it, or leave it out"),
        (b'{"prompt": ""}', "the prompt is empty; remove the line, or write one"),
        (b'{"prompt": "\\ud800"}', "has half of a character (a lone surrogate); correct it"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8 at byte 15 of the line; convert the file"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    with pytest.raises(ValueError) as caught:
        read_prompts(path, b'{"prompt": "a", "id": 1, "other": null}\r\n' + line + b"\n")
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)


def test_an_empty_file_and_an_empty_line_are_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    with pytest.raises(ValueError, match=rf"^prompts_file \({path}\): is empty; write a prompt into each line$"):
        read_prompts(path, b"")
    with pytest.raises(ValueError, match=rf"^{path}:2: the prompt is empty; remove the line, or write one$"):
        read_prompts(path, b"a\n\nb\n")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompts_file": "a"},
            "out (None): must name the file for the results of prompts_file; give it as out=PATH.jsonl",
        ),
        ({"prompts_file": ""}, "prompts_file (''): must name a file"),
        ({"prompt": "a", "out": "b"}, "out (b): is for prompts_file only; leave it out"),
        ({"prompt": "a", "chat": False}, "chat (False): is for interactive only; leave it out"),
        (
            {"prompts_file": "a", "out": "b", "prompt": "c"},
            "prompt (c): cannot be combined with prompts_file; leave one of them out",
        ),
        (
            {"prompts_file": "a", "out": "b", "interactive": True},
            "interactive (True): cannot be combined with prompts_file; leave one of them out",
        ),
        (
            {"interactive": True, "prompt_file": "a"},
            "prompt_file (a): cannot be combined with interactive; leave one of them out",
        ),
    ],
)
def test_modes_that_exclude_each_other(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GenerateJob(model_dir="m", **fields)
