"""Which steps run, and the counts of what they did."""

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemotron4_data.curation import CurationConfig, CurationReport, early_steps, late_steps, run_steps

CONF = Path(__file__).resolve().parents[3] / "conf/curation"


class Marker:
    """Drops what holds a digit, naming it, and changes what holds an x."""

    def __init__(self, name="marker", domains=("english", "code")):
        self.name, self.domains = name, domains

    def __call__(self, document):
        document["text"] = document["text"].replace("x", "xx")
        return next((character for character in document["text"] if character.isdigit()), None)


def load(name, **changed):
    return OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(CurationConfig), OmegaConf.load(CONF / f"{name}.yaml"), changed)
    )


@cache
def paper_steps():
    config = load("nemotron4")
    return early_steps(config) + late_steps(config)


def row(number, text, source="english/web"):
    return {"id": f"d{number}", "text": text, "source": source}


def test_everything_is_off_by_default():
    assert load("none") == CurationConfig()
    assert early_steps(CurationConfig()) == late_steps(CurationConfig()) == []


def test_the_paper_s_steps(tmp_path):
    (tmp_path / "items.txt").write_text("one two three")
    config = load("nemotron4", decontamination={"benchmarks": {"quiz": [f"{tmp_path}/*.txt"]}})
    names = [step.name for step in early_steps(config) + late_steps(config)]
    assert names == [
        *("repair", "language", "gopher_quality", "gopher_repetition", "c4", "data_everywhere", "code"),
        *("decontamination", "pii"),
    ]
    assert "decontamination" not in [step.name for step in late_steps(load("nemotron4"))]
    prose_steps = [step for step in early_steps(config) + late_steps(config) if "code" in step.domains]
    assert [step.name for step in prose_steps] == ["code", "decontamination"]


def test_the_sample_survives_the_paper_s_steps(sample):
    documents = [dict(row) for domain in sample for row in sample[domain][::20]]
    report = CurationReport()
    kept = list(run_steps(documents, paper_steps(), report))
    for domain, share in (("english", 0.6), ("multilingual", 0.6), ("code", 0.98)):
        assert sum(row["source"].startswith(domain) for row in kept) > share * len(sample[domain][::20])
    assert CurationReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_what_is_counted():
    documents = [row(1, "ax"), row(2, "é1"), row(3, "y2", "code/c"), row(4, "z"), row(5, "3", "multilingual/da")]
    report = CurationReport()
    kept = list(run_steps(documents, [Marker(), Marker("second", ["english"])], report))
    assert [document["text"] for document in kept] == ["axxxx", "z", "3"]
    assert report.to_json()["steps"] == [
        {
            "name": "marker",
            "changed": {"english/web": {"bytes": 3, "documents": 1}},
            "dropped": {
                "1": {"english/web": {"bytes": 3, "documents": 1}},
                "2": {"code/c": {"bytes": 2, "documents": 1}},
            },
            "examples": {
                "1": [{"id": "d2", "source": "english/web", "text": "é1"}],
                "2": [{"id": "d3", "source": "code/c", "text": "y2"}],
            },
            "seen": {"code/c": {"bytes": 2, "documents": 1}, "english/web": {"bytes": 6, "documents": 3}},
        },
        {
            "name": "second",
            "changed": {"english/web": {"bytes": 5, "documents": 1}},
            "dropped": {},
            "examples": {},
            "seen": {"english/web": {"bytes": 4, "documents": 2}},
        },
    ]


def test_examples_are_short_and_few():
    report = CurationReport()
    list(run_steps([row(i, "long  text\n" * 200 + "1") for i in range(50)], [Marker()], report))
    examples = report.steps["marker"].examples["1"]
    assert len(examples) == 3
    assert all(len(example["text"]) == 240 for example in examples)


@settings(deadline=None)
@given(st.lists(st.text("ax1 2", max_size=4), max_size=30), st.data())
def test_reports_merge_however_documents_are_split(texts, data):
    documents = [row(i, text, data.draw(st.sampled_from(["english/a", "code/b"]))) for i, text in enumerate(texts)]
    whole, merged = CurationReport(), CurationReport()
    list(run_steps([dict(document) for document in documents], [Marker()], whole))
    parts = [data.draw(st.integers(0, 2)) for _ in documents]
    for part in data.draw(st.permutations(range(3))):
        report = CurationReport()
        chosen = [dict(document) for document, its in zip(documents, parts, strict=True) if its == part]
        list(run_steps(chosen, [Marker()], report))
        merged.merge(CurationReport.from_json(report.to_json()))
    assert merged.to_json() == whole.to_json()


@pytest.mark.parametrize("domain", ["english", "multilingual", "code"])
@settings(deadline=None)
@given(text=st.text(max_size=500), language=st.sampled_from(["en", "zh", "fi", "xx"]))
def test_no_step_fails_on_any_text(domain, text, language):
    document = {"id": "d", "text": text or " ", "source": f"{domain}/x", "language": language}
    list(run_steps([document], paper_steps(), CurationReport()))
