"""Signals are kept, passed on and given back; a second Ctrl-C does not wait for the step."""

import gc
import os
import signal

import pytest
from smoke import smoke_job

from nemotron4_common.signals import STOP_SIGNALS, stop_status
from nemotron4_train.launching.launch import launch
from nemotron4_train.lightning.module import PretrainingModule
from nemotron4_train.run_directory import read_record
from nemotron4_train.stop_signal import StopSignal


def handlers():
    return [signal.getsignal(number) for number in STOP_SIGNALS]


def test_signals_are_kept_and_passed_on_and_given_back():
    before, seen = handlers(), []
    with StopSignal(seen.append) as stop:
        assert stop.received is None
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert stop.received == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT]
    assert handlers() == before
    assert [stop_status(number) for number in STOP_SIGNALS] == [75, 75, 130]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:torch.distributed is disabled:UserWarning")
def test_a_second_ctrl_c_ends_a_run_within_the_step(prepared, tmp_path, monkeypatch):
    def training_step(self, batch, batch_idx):
        assert not gc.isenabled()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = handlers()
    monkeypatch.setattr(PretrainingModule, "training_step", training_step)
    with pytest.raises(KeyboardInterrupt):
        launch(smoke_job(prepared, tmp_path), "")
    assert handlers() == before
    assert gc.isenabled()
    assert read_record((tmp_path / "smoke" / "latest").resolve()).state == "stopped"
