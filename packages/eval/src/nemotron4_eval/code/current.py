"""The sandbox that tasks of this process use; the harness calls their functions with items and nothing else."""

from nemotron4_eval.code.sandbox import Sandbox, make_sandbox

_current: list[Sandbox] = []


def current_sandbox() -> Sandbox:
    """The sandbox set by `use_sandbox`, else the strongest that this machine allows."""
    if not _current:
        _current.append(make_sandbox())
    return _current[0]


def use_sandbox(sandbox: Sandbox) -> None:
    """Have tasks of this process use this sandbox."""
    _current[:] = [sandbox]
