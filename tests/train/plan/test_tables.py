"""What `nemotron4 plan` prints and writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron4_config.main import main

CAMPAIGN = "experiment=nemotron4_15b_campaign"


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(what is printed, plan.json) of the campaign, in a process that must not import torch."""
    directory = tmp_path_factory.mktemp("plan")
    code = (
        "import sys; from nemotron4_config.main import main;"
        f" status = main(['plan', '{CAMPAIGN}', 'plan.out=out', 'plan.price_per_gpu_hour=2.5', 'plan.search=true']);"
        " sys.exit(status or 10 * bool({'torch', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=directory, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (directory / "out").iterdir()) == ["plan.json", "plan.png"]
    return done.stdout, json.loads((directory / "out/plan.json").read_text(), parse_constant=refuse)


def test_the_reports_table_is_shown_beside_the_predictions(shown):
    said, record = shown
    rows = [line.split("│") for line in said.splitlines()]
    for gpus, seconds, mfu, days in (("768", 0.57, "34.3%", "0.8"), ("2,304", 0.64, "30.5%", "11.9")):
        (row,) = [row for row in rows if len(row) == 15 and row[1].strip() == gpus]
        assert [cell.strip() for cell in row[3:6]] == [f"{seconds:g} s", mfu, days]
        (theirs,) = [each for each in record["published"] if each["step_seconds"] == seconds]
        predicted = theirs["predicted_of_its_recipe"]["step_seconds"]
        assert row[6].strip() == f"{predicted:.3g} s ({predicted / seconds - 1:+.1%})"
    assert "a guess of 0.597 s for every row, which predicts nothing, is off by +4.7%, +2.9%, -6.7%" in said


def test_nothing_shown_is_cut_or_wraps(shown):
    said, _ = shown
    assert "…" not in said
    tables = [line for line in said.splitlines() if line.startswith(("┃", "│", "┏"))]
    assert max(map(len, tables)) <= 130


def test_the_record_has_its_units_in_its_names_and_adds_up(shown):
    _, record = shown
    memory = record["memory_bytes"]
    kinds = ("parameters", "gradients", "optimizer", "activations", "logits", "gathered", "allowance")
    assert memory["total"] == sum(memory[kind] for kind in kinds)
    assert record["days"] == pytest.approx(sum(leg["days"] for leg in record["legs"]))
    assert record["cost"] == pytest.approx(2.5 * record["gpu_hours"])
    assert record["checkpoint"]["bytes"] == 12 * 15_628_775_424
    for leg in record["legs"]:
        assert leg["gpus"] == leg["replicate"] * leg["shard"] * leg["tensor"]
        assert memory["total"] >= leg["memory_bytes"]["total"]
        for phase in leg["phases"]:
            assert sum(phase["step_seconds_by_part"].values()) == pytest.approx(phase["step_seconds"])


def test_a_search_is_shown_and_recorded(shown):
    said, record = shown
    best = record["search"][0]
    assert best["step_seconds"] == min(each["step_seconds"] for each in record["search"] if not each["bytes_over"])
    assert said.endswith(f"to paste:\n{' '.join(best['overrides'])}\n")


def test_a_short_run_on_a_cpu_has_no_failures_and_no_gpus(tmp_path, monkeypatch, capsys):
    status, said = planned(tmp_path, monkeypatch, capsys)
    assert status == 0
    assert "rank-hours" in said.out
    assert "GPU" not in said.out
    assert "failures" not in said.out
    assert "time: of training steps; validation, " in said.out


def planned(tmp_path, monkeypatch, capsys, *overrides):
    monkeypatch.chdir(tmp_path)
    status = main(["plan", "experiment=smoke", *overrides])
    return status, capsys.readouterr()


def test_a_run_without_a_machine_is_planned_by_its_memory(tmp_path, monkeypatch, capsys):
    status, said = planned(tmp_path, monkeypatch, capsys, "topology.machine=null")
    assert status == 0
    assert "topology.machine is null, so step time and the memory of a device are not known" in said.out
    record = json.loads(Path("runs/smoke/plan.json").read_text(), parse_constant=refuse)
    assert (record["days"], record["legs"][0]["step_seconds"], record["published"]) == (None, None, [])
    assert record["memory_bytes"]["total"] > 0


def test_what_does_not_fit_is_said(tmp_path, monkeypatch, capsys):
    overrides = ("topology.machine=a100_40g", "model=nemotron4_15b", "model.vocab_size=1024")
    said = planned(tmp_path, monkeypatch, capsys, *overrides)[1].out
    assert "warmup-continued does not fit: a rank needs " in said
    assert "plan.search=true looks for layouts that do" in said


def test_what_is_not_calibrated_and_what_never_ends_are_said(shown, tmp_path, monkeypatch, capsys):
    overrides = ("topology.machine=b200", "plan.hours_between_failures=1e-5")
    status, said = planned(tmp_path, monkeypatch, capsys, *overrides)
    assert status == 0
    assert said.out.count("step times of b200 are not calibrated") == 1
    assert "not calibrated" not in shown[0]
    assert "never ends" in said.out
    assert "failures: one in " in said.out
    assert "inf" not in said.out
    record = json.loads(Path("runs/smoke/plan.json").read_text(), parse_constant=refuse)
    assert record["failures"]["lost_days"] is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.price_per_gpu_hour=-1", "plan.price_per_gpu_hour (-1.0): must be greater than 0, or null"),
        ("plan.storage_gigabytes_per_second=0", "plan.storage_gigabytes_per_second (0.0): must be greater than 0"),
        ("plan.out=file", "plan.out (file/plan.json): "),
        ("plan.out=file/plan", "plan.out (file/plan/plan.json): "),
        ("topology.machine=h100", "topology.machine (h100): is no file of conf/machine; nearest: "),
        (
            "model.vocab_size=1023 topology.tensor=2",
            "model.vocab_size (1023): must be divisible by topology.tensor = 2",
        ),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, override, message):
    (tmp_path / "file").touch()
    status, said = planned(tmp_path, monkeypatch, capsys, *override.split())
    assert (status, said.out) == (2, "")
    assert said.err.startswith(f"nemotron4 plan: {message}")
    assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
