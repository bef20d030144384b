"""Predicted beside measured, in report.json and report.html: of a real run, and for the machine it is really on."""

import json
from dataclasses import replace
from statistics import median

import pytest

from nemotron4_model import ModelConfig
from nemotron4_train.estimates.layout import layout_of
from nemotron4_train.estimates.memory import memory
from nemotron4_train.estimates.step_time import step_time
from nemotron4_train.job import Precision, PrecisionConfig
from nemotron4_train.machine import load_machine
from nemotron4_train.reporting.metrics import read_rows
from nemotron4_train.reporting.predictions import prediction_table, predictions
from nemotron4_train.topology import Device, TopologyConfig

FITTED = "from the machine's peaks, with constants fitted on published steps of H100s"


def test_a_run_s_report_has_both(undisturbed):
    job, directory = undisturbed
    report, rows = json.loads((directory / "report.json").read_text()), read_rows(directory / "metrics.csv")
    assert set(report["predicted"]) == set(report["measured"]) == {"warmup", "main", "continued"}
    for name, phase in job.schedule.phases.items():
        of_phase = [row for row in rows if row["phase"] == name]
        speeds = [float(row["tokens_per_second"]) for row in of_phase]
        tokens = phase.global_batch_size * phase.sequence_length
        assert report["measured"][name] == {
            "step_seconds": pytest.approx(median(tokens / speed for speed in speeds)),
            "peak_memory_bytes": max(int(row["peak_memory_bytes"]) for row in of_phase),
        }
        assert report["measured"][name]["peak_memory_bytes"] > 100e6, "the libraries alone take more"
        needed = memory(job.model, layout_of(job, phase, job.topology)).total
        assert report["predicted"][name] == {"step_seconds": None, "peak_memory_bytes": needed}
    said = "step time is not predicted, because the machine is not known: topology.machine is null"
    assert report["prediction_basis"] == said
    page = (directory / "report.html").read_text()
    assert prediction_table(report) in page
    assert page.count(" GB (") == 3, "the measured memory of each phase, with its difference"


def test_a_machine_predicts_each_phase_on_its_own_topology(undisturbed):
    job, directory = undisturbed
    rows = read_rows(directory / "metrics.csv")
    phases = job.schedule.phases
    gpu = TopologyConfig(device=Device.cuda, machine="h100_sxm", micro_batch_size=2)
    own = replace(job.schedule, phases=phases | {"main": replace(phases["main"], topology=gpu)})
    job = replace(job, topology=TopologyConfig(machine="cpu"), schedule=own)
    found = predictions(job, rows, None)
    for name, topology, machine in (("warmup", job.topology, "cpu"), ("main", gpu, "h100_sxm")):
        layout = layout_of(job, phases[name], topology)
        seconds = step_time(job.model, layout, load_machine(machine)).total_seconds
        assert found["predicted"][name]["step_seconds"] == seconds
    assert found["predicted"]["main"]["peak_memory_bytes"] == memory(job.model, layout).allocated, "no allowance"
    assert found["prediction_basis"] == (
        f"step time on cpu: a roofline {FITTED}, not calibrated for this machine; step time on h100_sxm: {FITTED}"
    )
    assert "%)" in prediction_table(found)


@pytest.mark.parametrize(
    ("machine", "gpu", "precision", "basis"),
    [
        ("h100_sxm", "NVIDIA H200", "bf16", f"step time on h200_sxm: a roofline {FITTED}, not calibrated for"),
        (
            "h100_sxm",
            "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            "bf16",
            "step time is not predicted, because the machine is not known: topology.machine is h100_sxm, and the run is"
            " on NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        ),
        ("a100_80g", None, "fp8", "step time is not predicted: precision.compute (fp8): a100_80g has no peak for it"),
        ("gone.yaml", None, "bf16", "step time is not predicted: topology.machine (gone.yaml): cannot be read (No"),
    ],
)
def test_what_cannot_be_predicted_is_said(undisturbed, machine, gpu, precision, basis):
    job, _ = undisturbed
    topology = TopologyConfig(device=Device.cuda, compile=True, machine=machine)
    settings = PrecisionConfig(compute=Precision[precision])
    job = replace(job, model=ModelConfig.preset("small_125m"), topology=topology, precision=settings)
    found = predictions(job, [], gpu)
    assert found["prediction_basis"].startswith(basis)
    assert found["measured"]["main"] == {"step_seconds": None, "peak_memory_bytes": None}
    assert (found["predicted"]["main"]["step_seconds"] is None) == basis.startswith("step time is not predicted")
