"""The job of `nemotron4 plan`: a training job, and how to plan it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nemotron4_common.rules import require
from nemotron4_train.job import TrainJob


@dataclass(kw_only=True)
class PlanConfig:
    """What the planner does beside its tables, and the prices and rates that it reckons with."""

    out: str | None = None
    """Directory of plan.json and plan.png; null means <run.root>/<run.name>."""
    dry_run: bool = False
    """Run a step of the real model, recipe and optimiser on fake tensors, as one rank of the whole topology, and count
    its memory and its collectives; less than a minute for each different step of the 15B."""
    search: bool = False
    """Rank the layouts of the topology's devices that fit, by predicted step time."""
    published: bool = False
    """Print every published step beside its prediction instead of a plan."""
    price_per_gpu_hour: float | None = None
    """In any currency; null prints no cost."""
    storage_gigabytes_per_second: float = 10.0
    """What all ranks together write of a checkpoint, in 1e9 bytes a second."""
    hours_between_failures: float = 50_000.0
    """Mean time between failures of one GPU and its share of a node, in hours (Llama 3, arXiv 2407.21783 section 3.3.4:
    419 unexpected interruptions in 54 days on 16,384 GPUs)."""
    restart_minutes: float = 10.0
    """From a failure to the first new step, in minutes."""

    def __post_init__(self) -> None:
        """Refuse an empty path, and rates and prices that are not positive."""
        require(self.out != "", "plan.out", "''", "must name a directory; leave it out for <run.root>/<run.name>")
        price = self.price_per_gpu_hour
        require(price is None or price > 0, "plan.price_per_gpu_hour", price, "must be greater than 0, or null")
        for key in ("storage_gigabytes_per_second", "hours_between_failures"):
            require(getattr(self, key) > 0, f"plan.{key}", getattr(self, key), "must be greater than 0")
        require(self.restart_minutes >= 0, "plan.restart_minutes", self.restart_minutes, "must be at least 0")


@dataclass(kw_only=True)
class PlanJob(TrainJob):
    """A training job that is shown instead of run."""

    plan: PlanConfig = field(default_factory=PlanConfig)
    """What the planner does beside its tables, and the prices and rates that it reckons with."""
