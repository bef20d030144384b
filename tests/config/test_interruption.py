"""A signal to a command: one line, 128 + the signal, whatever the command makes of it."""

import os
import signal
import subprocess
import sys

import pytest

from nemotron4_config.interruption import Interrupted, Interruption

SCRIPT = """
import signal, sys, time
from nemotron4_config.interruption import reporting_signals

def run(interruption):
    try:
        print("runs", flush=True)
        time.sleep(30)
    except BaseException as error:
        if sys.argv[1] == "turned into another":
            raise IndexError("pop from an empty list") from error
        raise
    finally:
        time.sleep(0.2)
        print("cleaned up", flush=True)

sys.exit(reporting_signals("nemotron4 fake", run))
"""


def start(*arguments, **options):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    assert process.stdout.readline() == "runs\n"
    return process


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "nemotron4 fake: interrupted; run the same command again to resume\n"),
        (signal.SIGTERM, 143, "nemotron4 fake: ended by SIGTERM; run the same command again to resume\n"),
        (signal.SIGHUP, 129, "nemotron4 fake: ended by SIGHUP; run the same command again to resume\n"),
    ],
)
@pytest.mark.parametrize("how", ["as it came", "turned into another"])
def test_a_signal_is_one_line(number, status, said, how):
    process = start(how)
    process.send_signal(number)
    process.send_signal(number)  # as `timeout` sends it: to the process and to its group
    assert process.communicate(timeout=60) == ("cleaned up\n", said)
    assert process.returncode == status


def test_what_the_process_was_started_to_ignore_stays_ignored():
    process = start("", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1].startswith("nemotron4 fake: ended by SIGTERM;")


def test_a_verb_is_ended_before_it_is_composed():
    """The first thing that the command line does: what it imports next takes seconds."""
    command = "import os, signal, sys; from nemotron4_config import main as module\n" \
        "module.command_loaders = lambda: os.kill(os.getpid(), signal.SIGTERM)\n" \
        "sys.exit(module.main(['data', 'verify', 'dir=x']))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stderr) == (
        143, "nemotron4 data verify: ended by SIGTERM; run the same command again to resume\n"
    )  # fmt: skip


def test_a_signal_that_composing_swallows_is_raised_before_the_job():
    with Interruption() as interruption:
        interruption.check()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            interruption.check()
        interruption.received = None  # so that the test process gets its handlers back
