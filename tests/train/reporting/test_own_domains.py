"""A corpus with domains of its own, from training to the report; and whose evaluations a report shows."""

import csv
import json
import shutil

import pytest
from smoke import prepare_tiny, run, smoke_job

from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_data.data_config import DataDirConfig
from nemotron4_eval import EvalJob, SuiteConfig, run_eval
from nemotron4_train.checkpoints.export import ExportJob, export_checkpoint
from nemotron4_train.reporting.domains import INK, PALETTE, domain_colours, ordered_domains
from nemotron4_train.reporting.metrics import read_rows
from nemotron4_train.reporting.report import evaluation_of, write_report
from nemotron4_train.reporting.run_plots import Measured, run_figure
from nemotron4_train.run_directory import read_record

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
    "ignore:torch.distributed is disabled:UserWarning",
)
SUITE = SuiteConfig(max_bytes_per_source=2_000, window_tokens=64, stride_tokens=64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A complete run on law and Wikipedia, as its job and its directory."""
    directory = tmp_path_factory.mktemp("law")
    weights = {
        name: Distribution(weights={"wiki": 0.25, "law/statutes": 0.75}) for name in ("pretraining", "continued")
    }
    prepared = prepare_tiny(directory, sources=("law/statutes", "wiki/de"), num_documents=120, vocab_size=512)
    job = smoke_job(prepared, directory, blend=BlendConfig(distributions=weights))
    return job, run(job)


def evaluate(job, model_dir):
    """Evaluate a model directory; returns what the result file beside its run, or in it, holds."""
    evaluation = EvalJob(model_dir=str(model_dir), data=DataDirConfig(dir=job.data.dir), suite=SUITE)
    run_eval(evaluation)
    return json.loads(evaluation.result_path.read_text())


def figures_of(directory, job):
    page = write_report(directory, job).read_text()
    return json.loads((directory / "report.json").read_text()), page


def test_a_corpus_has_its_own_domains_everywhere(trained):
    job, directory = trained
    with open(directory / "validation.csv", newline="") as file:
        assert next(csv.reader(file)) == ["step", "tokens", "overall", "law", "wiki"]
    figures = json.loads((directory / "report.json").read_text())
    last = read_rows(directory / "validation.csv")[-1]
    assert figures["bits_per_byte"] == {name: float(last[name]) for name in ("overall", "wiki", "law")}
    assert list(figures["bits_per_byte"]) == ["overall", "wiki", "law"]  # as the blend lists them
    assert figures["bits_per_byte_from"] == "last validation (part of the held-out text)"
    export_checkpoint(ExportJob(run=str(directory)), job)
    found = evaluate(job, directory / "export")
    assert list(found["bits_per_byte"]) == ["overall", "law", "wiki", "sources"]
    figures, page = figures_of(directory, job)
    assert figures["bits_per_byte"] == {name: found["bits_per_byte"][name] for name in ("overall", "wiki", "law")}
    assert list(figures["xz_bits_per_byte_by_domain"]) == ["overall", "wiki", "law"]
    assert "<tr><th></th><th>overall</th><th>wiki</th><th>law</th></tr>" in page
    assert "Model: evaluation of step-00000012; gzip -9" in page
    measured = Measured(
        steps=read_rows(directory / "metrics.csv"),
        validation=read_rows(directory / "validation.csv"),
        domains=read_rows(directory / "domains.csv"),
    )
    panels = {axis.get_ylabel().split("\n")[0]: axis for axis in run_figure(job, job.timeline(), measured).axes}
    for panel in ("training loss", "held-out"):
        drawn = {line.get_label(): line.get_color() for line in panels[panel].lines}
        assert (drawn["wiki"], drawn["law"]) == PALETTE[:2], panel
    blend = {patch.get_label(): patch for patch in panels["blend"].patches if patch.get_label() in ("wiki", "law")}
    assert list(blend) == ["wiki", "law"]


def test_the_shipped_corpus_keeps_its_order_and_colours():
    weights = {"english": 0.7, "multilingual": 0.15, "code": 0.15}
    rows = [{"step": "6", "tokens": "768", "overall": "2", "code": "1", "english": "2", "multilingual": "3"}]
    domains = ordered_domains(BlendConfig(distributions={"pretraining": Distribution(weights=weights)}), rows)
    assert domains == ["overall", "english", "multilingual", "code"]
    assert domain_colours(domains) == {
        "overall": INK, "english": "#2a6fbb", "multilingual": "#d1701f", "code": "#3a8f4d"
    }  # fmt: skip
    many = [f"d{number}" for number in range(9)]
    colours = domain_colours(["overall", *many])
    assert len({colours[name] for name in many[:8]}) == 8
    assert colours["d8"] == colours["d0"]
    english = BlendConfig(distributions={"pretraining": Distribution(weights={"english": 1.0})})
    assert ordered_domains(english, [{"wiki": 1, "law": 2, "sources": {}}]) == ["overall", "english", "law", "wiki"]


def test_a_report_shows_the_evaluations_of_its_own_exports(trained, tmp_path):
    job, first = trained
    directory, other = (tmp_path / name for name in ("run", "other"))
    shutil.copytree(first, directory, ignore=shutil.ignore_patterns("export", "eval.json", "tensorboard"))
    shutil.copytree(directory, other)
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"id": "0" * 32}))
    export_checkpoint(ExportJob(run=str(directory), dir=str(tmp_path / "model")), job)
    found = evaluate(job, (tmp_path / "model").rename(tmp_path / "renamed"))
    assert (directory / "eval.json").is_file()
    assert found["run_id"] == read_record(directory).id
    assert (found["checkpoint"], found["job_digest"]) == ("step-00000012", job.digest())
    figures, _ = figures_of(directory, job)
    assert (figures["bits_per_byte_from"], figures["evaluated_checkpoint"]) == ("evaluation", "step-00000012")
    shutil.copyfile(directory / "eval.json", other / "eval.json")
    figures, _ = figures_of(other, job)
    last = read_rows(other / "validation.csv")[-1]
    assert figures["bits_per_byte"]["overall"] == float(last["overall"])
    assert figures["bits_per_byte_from"] == (
        "last validation (part of the held-out text); eval.json here belongs to another run"
    )
    assert figures["gzip_bits_per_byte"] is None
    del found["run_id"]  # as an older version wrote it
    (other / "eval.json").write_text(json.dumps(found))
    assert evaluation_of(other) == found


def test_an_evaluation_whose_run_is_gone_says_so(trained, tmp_path, capsys):
    job, first = trained
    directory = tmp_path / "run"
    shutil.copytree(first, directory, ignore=shutil.ignore_patterns("export", "eval.json", "tensorboard"))
    export_checkpoint(ExportJob(run=str(directory), dir=str(tmp_path / "model")), job)
    directory.rename(tmp_path / "moved")
    found = evaluate(job, tmp_path / "model")
    assert json.loads((tmp_path / "model/eval.json").read_text()) == found
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(f"its run is no longer at {directory}: for that run's report, copy the file to the run")
    shutil.copyfile(tmp_path / "model/eval.json", tmp_path / "moved/eval.json")
    assert evaluation_of(tmp_path / "moved") == found
