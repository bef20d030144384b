"""One job of a sweep, in a process of its own: `python -m nemotron4_config.sweep_job JOB RUN DIRECTORY PARENT`.

JOB and RUN are the "module:attribute" of a command's job type and function; DIRECTORY holds sweep_job.yaml and gets
result.json. Invariants: no Hydra runs here, so that no job can start a sweep; the process dies with PARENT, the process
id of the sweep, so that whoever holds a sweep's lock is the only one whose jobs write below it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from nemotron4_config.command import load_attribute
from nemotron4_config.job_file import load_job
from nemotron4_config.sweep_result import SweepResult, write_result

JOB_FILE = "sweep_job.yaml"
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(job_reference: str, run_reference: str, directory: str, parent: str) -> int:
    """Run the job and write its result; returns 0, 2 for a user's mistake, 1 for a fault of ours."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        raise SystemExit("the sweep of this job is gone")
    try:
        job = load_job(Path(directory) / JOB_FILE, load_attribute(job_reference))
        result = SweepResult(objective=load_attribute(run_reference)(job))
    except Exception as error:  # whatever failed, it is explained in the job's log and the sweep's table
        from nemotron4_config.errors import USER_ERRORS, explain

        mistake = isinstance(error, USER_ERRORS)
        if mistake:
            print(explain(error), file=sys.stderr)
        else:
            traceback.print_exc()
        write_result(Path(directory), SweepResult(error=explain(error)))
        return 2 if mistake else 1
    write_result(Path(directory), result)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
