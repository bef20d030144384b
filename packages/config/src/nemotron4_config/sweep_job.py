"""One job of a sweep, in its own process: `python -m nemotron4_config.sweep_job JOB RUN DIRECTORY PARENT`.

JOB and RUN are the "module:attribute" of a command's job type and function; DIRECTORY contains sweep_job.yaml, and
result.json is written there. Invariants: Hydra does not run here, so no job can start a sweep; the process dies with
PARENT, the process ID of the sweep, so that only jobs of the process that holds a sweep's lock write in its directory.
"""

from __future__ import annotations

import sys
import traceback
from functools import partial
from pathlib import Path

from nemotron4_common.processes import die_with_parent
from nemotron4_config.command import load_attribute
from nemotron4_config.interruption import Interruption, reporting_signals
from nemotron4_config.job_file import load_job
from nemotron4_config.sweep_result import SweepResult, write_result

JOB_FILE = "sweep_job.yaml"


def main(job_reference: str, run_reference: str, directory: str, parent: str) -> int:
    """Run the job and write its result, unless a signal ends it; returns the exit status, as documented in main.py."""
    die_with_parent(int(parent), "the sweep that started this job has ended")
    run = partial(_run, job_reference, run_reference, Path(directory))
    return reporting_signals(f"job in {directory}", run)


def _run(job_reference: str, run_reference: str, directory: Path, interruption: Interruption) -> int:
    try:
        job = load_job(directory / JOB_FILE, load_attribute(job_reference))
        result = SweepResult(objective=load_attribute(run_reference)(job))
    except Exception as error:  # whatever failed, the job's log and the sweep's table show the error
        if interruption.ended_it(error):
            raise
        from nemotron4_config.errors import USER_ERRORS, explain

        mistake = isinstance(error, USER_ERRORS)
        if mistake:
            print(explain(error), file=sys.stderr)
        else:
            traceback.print_exc()
        write_result(directory, SweepResult(error=explain(error)))
        return 2 if mistake else 1
    write_result(directory, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
