"""What the tests on Slurm submit, and how they wait for it."""

import time
from collections.abc import Callable
from pathlib import Path

SMOKE = (
    *("experiment=smoke", "data.dir=data/tiny", "model.vocab_size=1024", "model.num_key_value_heads=4", "logger=csv"),
    "trainer.validation_bytes_per_source=200",
)
ON_SLURM = (
    *("launcher=slurm", "launcher.partition=main", "launcher.exclusive=false", "launcher.num_threads=1"),
    # Virtual nodes have no names of their own.
    *("+launcher.environment.MASTER_ADDR=127.0.0.1", "+launcher.environment.GLOO_SOCKET_IFNAME=lo"),
)


def until(condition: Callable[[], object], limit_seconds: float = 240) -> None:
    """Return as soon as the condition holds."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {limit_seconds} seconds"
        time.sleep(0.1)


def logs(run: Path) -> str:
    """What the jobs of a run have printed."""
    return "\n".join(path.read_text() for path in sorted((run / "slurm").glob("*.log")))
