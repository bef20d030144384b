"""Job files: they read back as the job, whatever its text holds, and those of earlier versions still do."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest
from composed import composed
from fake_verb import fake_verb
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemotron4_config import load_job, render_job
from nemotron4_train.job import TrainJob


class Kind(Enum):
    none = "none"
    yes = "yes"


@dataclass
class Part:
    text: str
    table: dict[str, str] = field(default_factory=dict)


@dataclass
class Whole:
    text: str
    maybe: str | None
    texts: list[str]
    share: float
    count: int | None
    flag: bool
    kind: Kind
    part: Part | None
    parts: dict[str, Part]


MEANT_AS_TEXT = ["", "???", "null", "~", "1.50", "1e5", "0x1f", "true", "=", "<<", "2024-01-01", "- a", "a: b", "!!x"]
TEXT = (
    st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates and control characters too
    | st.text(" \n\t'\"\\${}:#-\x85\ud800\ufeff\u2028", max_size=12)
    | st.sampled_from(MEANT_AS_TEXT)
)
PARTS = st.builds(Part, text=TEXT, table=st.dictionaries(TEXT, TEXT, max_size=2))
WHOLES = st.builds(
    Whole,
    text=TEXT,
    maybe=st.none() | TEXT,
    texts=st.lists(TEXT, max_size=3),
    share=st.floats(allow_nan=False),
    part=st.none() | PARTS,
    parts=st.dictionaries(TEXT, PARTS, max_size=2),
)


@given(WHOLES)
def test_it_reads_back_as_the_job_whatever_its_text_holds(tmp_path_factory, job):
    path = tmp_path_factory.getbasetemp() / "job.yaml"
    path.write_text(render_job(job), encoding="utf-8")
    assert load_job(path, Whole) == job


def test_text_that_looks_like_an_interpolation_reaches_a_worker(tmp_path):
    job = composed(
        "train", "experiment=smoke", r"launcher.setup=['export P=\${HOME}/lib', '${run.name}']", r"run.name='a\${b}'"
    )
    assert job.launcher.setup == ["export P=${HOME}/lib", "a${b}"]
    assert job.run.name == "a${b}"
    path = tmp_path / "job.yaml"
    path.write_text(render_job(job))
    assert load_job(path, TrainJob) == job


def test_it_reaches_a_job_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    assert fake_verb("-m", "x=1", r"action='\${y}'") == 0
    (job,) = tmp_path.glob("runs/sweep/*/job_0_*/sweep_job.yaml")
    assert "\naction: ${y}\n" in job.read_text()


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    job = composed("train", "experiment=smoke", "+launcher.environment.A='1.50'")
    path = tmp_path / "job.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(job)))
    assert load_job(path, TrainJob) == job


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("text: a\nspeed: 3\n", "speed: unknown key"),
        ("text: 1\n", "text: 1 is not of type str"),
        ("{}", "text: missing"),
        ("[]", "the file: [] is not of type Part"),
        ("text: a\ntable: {a: [b]}\n", "table.a: ['b'] is not of type str"),
        ("text: [", "while parsing a flow node expected the node content, but found '<stream end>'"),
    ],
)
def test_a_file_that_is_not_the_job_s_says_where(tmp_path, content, reason):
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        load_job(path, Part)
    assert str(error.value).startswith(f"{path}: not a Part job file ({reason}")
    assert str(error.value).endswith("); compose the job again")
