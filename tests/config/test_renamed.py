"""Old names of keys and values: an override by one is answered with the new, and job files that hold them open."""

from typing import get_type_hints

import pytest
from composed import composed, status_of

from nemotron4_config import load_job
from nemotron4_config.command import command_loaders, load_attribute
from nemotron4_config.renamed import KEYS, VALUES
from nemotron4_data.verify import VerifyJob
from nemotron4_eval import EvalJob
from nemotron4_model import DType
from nemotron4_train.checkpoints.export import ExportJob

OLD = [
    ("eval", ["model_dir=m", "corpus_dir=data/mine"], "corpus_dir: is now data.dir; give data.dir=data/mine"),
    ("eval", ["model_dir=m", "+corpus_dir=d"], "corpus_dir: is now data.dir; give data.dir=d"),
    ("eval", ["-m", "model_dir=m", "corpus_dir=a,b"], "corpus_dir: is now data.dir; give data.dir=a,b"),
    ("eval", ["model_dir=m", "~corpus_dir"], "corpus_dir: is now data.dir; give data.dir=VALUE"),
    ("eval", ["model_dir=m", "limit=5"], "limit: is now suite.limit; give suite.limit=5"),
    ("eval", ["model_dir=m", "output=a/b.json"], "output: is now out, a directory; give out=a/b"),
    ("eval", ["model_dir=m", "output="], "output: is now out, a directory; give out=VALUE"),
    ("eval", ["model_dir=m", "dtype=float32"], "dtype (float32): is now fp32"),
    ("generate", ["model_dir=m", "prompt=a", "dtype=auto"], "dtype (auto): is now null"),
    ("export", ["run=r", "dtype=bfloat16"], "dtype (bfloat16): is now bf16"),
    ("export", ["-m", "run=r", "dtype=float32,bfloat16"], "dtype (float32,bfloat16): is now fp32,bf16"),
    ("export", ["run=r", "dtype=auto"], "dtype (auto): must be one of: fp32, bf16"),
    ("export", ["run=r", "directory=out"], "directory: is now dir; give dir=out"),
    ("data_verify", ["dir=data/mine"], "dir: is now data.dir; give data.dir=data/mine"),
]


@pytest.mark.parametrize(("verb", "arguments", "message"), OLD, ids=lambda value: str(value)[:50])
def test_an_old_name_is_answered_with_the_new(capsys, tmp_path, monkeypatch, verb, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert status_of(verb, *arguments) == 2
    assert capsys.readouterr().err == f"nemotron4 {verb.replace('_', ' ')}: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_still_dir():
    assert composed("prepare", "dir=data/mine").dir == "data/mine"
    adopted = composed("data_adopt", "dir=data/mine", "tokenizer_model=t", "train=[english/web:a]")
    assert adopted.dir == "data/mine"


@pytest.mark.parametrize(
    ("job_type", "content", "found"),
    [
        (EvalJob, "model_dir: m\ncorpus_dir: data/mine\n", {"data.dir": "data/mine"}),
        (EvalJob, "model_dir: m\ncorpus_dir: old\ndata: {dir: new}\n", {"data.dir": "new"}),
        (EvalJob, "model_dir: m\noutput: a/b.json\nlimit: 5\n", {"out": "a/b", "suite.limit": 5}),
        (EvalJob, "model_dir: m\ndtype: auto\n", {"dtype": None}),
        (EvalJob, "model_dir: m\ndtype: bf16\n", {"dtype": DType.bf16}),
        (ExportJob, "run: r\ndirectory: out\ndtype: float32\n", {"dir": "out", "dtype": DType.fp32}),
        (VerifyJob, "dir: data/mine\nrun: r\n", {"data.dir": "data/mine", "run": "r"}),
    ],
)
def test_a_job_file_with_old_names_opens(tmp_path, job_type, content, found):
    path = tmp_path / "job.yaml"
    path.write_text(content)
    job = load_job(path, job_type)
    assert {key: value_of(job, key) for key in found} == found


def value_of(job, key):
    for name in key.split("."):
        job = getattr(job, name)
    return job


@pytest.mark.parametrize("content", ["model_dir: m\ncorpus_dir: d\ndata: 3\n", "[corpus_dir]", "corpus_dir"])
def test_a_job_file_that_fits_by_no_name_says_so(tmp_path, content):
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"job.yaml: not a EvalJob job file \(.*; compose the job again"):
        load_job(path, EvalJob)


def test_the_tables_name_jobs_and_keys_that_there_are():
    jobs = {}
    for loader in command_loaders().values():
        job_type = load_attribute(loader().job)
        jobs[job_type.__name__] = job_type
    for job_name, old_and_new in KEYS.items():
        for old, new in old_and_new.items():
            assert not has_key(jobs[job_name], old)
            assert has_key(jobs[job_name], new)
    for job_name, keys in VALUES.items():
        for key in keys:
            assert has_key(jobs[job_name], key)


def has_key(job_type, key):
    for name in key.split("."):
        hints = get_type_hints(job_type)
        if name not in hints:
            return False
        job_type = hints[name]
    return True
