"""Compiled gradients are compared with uncompiled ones, over tensor parallelism and before the first step."""

import csv
import re
from typing import Any

import pytest
import torch
from compile_check_worker import check_all
from distributed import run_distributed
from smoke import smoke_job

from nemotron4_config.job_file import render_job
from nemotron4_model import Recompute
from nemotron4_train.compile_check import compare
from nemotron4_train.job import Precision, PrecisionConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.topology import TopologyConfig


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_distributed(check_all, 2, timeout_seconds=120)


def test_right_gradients_pass_and_rank_0_says_so(ranks: Any) -> None:
    first, second = (result["checked"] for result in ranks)
    assert (first["refusal"], second["refusal"], second["said"]) == ("", "", "")
    line = r"compile check: 12 gradients agree within 1e-04 \(worst [\w.]+ \d\.\de[-+]\d\d\), in \d+\.\d s\n"
    assert re.fullmatch(line, first["said"])


def test_the_check_leaves_no_trace_and_compiles_nothing_twice(ranks: Any) -> None:
    for result in ranks:
        checked, unchecked = result["checked"], result["unchecked"]
        assert checked["left"] == []
        assert torch.equal(checked["random"], unchecked["random"])
        for name, weight in unchecked["weights"].items():
            assert torch.equal(checked["weights"][name], weight), name
        assert checked["graphs"] > 0
        assert checked["new_graphs"] == 0


def test_a_collective_that_nobody_waited_for_keeps_its_gradient_at_the_border_of_a_compiled_block(ranks: Any) -> None:
    for result in ranks:
        assert result["asynchronous"]["refusal"] == ""


def test_a_wrong_gradient_on_one_rank_is_refused_on_all(ranks: Any) -> None:
    first, second = (result["wrong"]["refusal"] for result in ranks)
    assert first == second
    message = (
        rf"topology\.compile \(true\): torch {re.escape(torch.__version__)} compiles a wrong gradient of [\w.]+, "
        r"off by \d\.\de[-+]\d\d of its norm on rank [01], where rounding explains 1e-04 at most; "
        r"set topology\.compile=false"
    )
    assert re.fullmatch(message, first)


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ([3.0, 4.0], 0.0),
        ([3.0, 4.5], 0.1),
        ([0.0, 0.0], 1.0),
        ([3.0, torch.nan], torch.nan),
        ([3.0, torch.inf], torch.inf),
    ],
)
def test_the_worst_gradient_is_named(found: list[float], error: float) -> None:
    expected = {"unused": torch.zeros(2), "same": torch.ones(2), "other": torch.tensor([3.0, 4.0])}
    worst = compare(expected, expected | {"other": torch.tensor(found)})
    assert worst.error == pytest.approx(error, nan_ok=True)
    assert worst.name == ("other" if error else "unused")


def test_a_gradient_where_none_should_be_is_an_error() -> None:
    assert compare({"unused": torch.zeros(2)}, {"unused": torch.ones(2)}).error == torch.inf


@pytest.mark.slow
@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
def test_a_compiled_run_over_tensor_parallelism_trains_as_a_plain_one_cold_and_warm(
    low: bool, prepared, tmp_path, monkeypatch, capfd
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    precision, found = PrecisionConfig(compute=Precision.bf16 if low else Precision.fp32), {}
    for name in ("plain", "cold", "warm"):
        recompute = Recompute.selective if low else Recompute.none
        topology = TopologyConfig(tensor=2, compile=name != "plain", recompute=recompute)
        job = smoke_job(prepared, tmp_path / name, topology=topology, precision=precision)
        launch(job, render_job(job))
        with open(tmp_path / name / "smoke" / "latest" / "metrics.csv", newline="") as file:
            found[name] = [(float(row["loss"]), float(row["grad_norm"])) for row in csv.DictReader(file)]
        assert capfd.readouterr().err.count("compile check: 20 gradients agree") == (0 if name == "plain" else 2)
    assert found["warm"] == found["cold"]
    plain, cold = torch.tensor(found["plain"]), torch.tensor(found["cold"])
    torch.testing.assert_close(cold, plain, atol=0, rtol=1e-2 if low else 1e-4)
