import pytest

from nemotron4_model import ModelConfig
from nemotron4_train.machine import load_machine
from nemotron4_train.reporting.mfu import Utilisation


def test_the_paper_s_mfu_at_the_paper_s_speed():
    """Nemotron-4 15B on 768 H100s: 0.57 s an iteration of 384 x 4,096 tokens is 34.3 % (arXiv 2402.16819, Table 2)."""
    utilisation = Utilisation(
        model=ModelConfig.preset("nemotron4_15b"),
        num_devices=768,
        peak_teraflops=load_machine("h100_sxm").peak_teraflops["bf16"],
    )
    assert utilisation.mfu(384 * 4096 / 0.57, 4096) == pytest.approx(0.343, abs=0.004)


def test_without_a_peak_there_is_no_mfu():
    model = ModelConfig.preset("nano_1m")
    assert Utilisation(model=model, num_devices=1, peak_teraflops=None).mfu(1e6, 64) is None
