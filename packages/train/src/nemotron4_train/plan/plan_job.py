"""The job of `nemotron4 plan`: a training job, and how to plan it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nemotron4_common.rules import require
from nemotron4_train.job import TrainJob


@dataclass(kw_only=True)
class PlanConfig:
    """What the planner does beside its tables, and the prices and rates that it uses."""

    out: str | None = None
    """Directory of plan.json and plan.png; null means <run.root>/<run.name>."""
    dry_run: bool = False
    """Run a step of the real model, recipe and optimiser on fake tensors, as one rank of the whole topology, and count
    its memory and its collectives; less than a minute for each different step of the 15B."""
    search: bool = False
    """Rank the layouts that fit by predicted time, for the phases that take longest; print the best as overrides."""
    gpus: int | None = None
    """Devices that plan.search lays out; null means those of the phases' topology."""
    machine: str | None = None
    """Kind of machine that plan.search lays out, as topology.machine; null means that of the phases' topology."""
    global_batch_size: int | None = None
    """Sequences of a step that plan.search lays out; null means what the phases have."""
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
    scaling: bool = False
    """Print the model size and the tokens that published scaling laws choose for the job's FLOPs; draw scaling.png."""
    served_tokens: float | None = None
    """Tokens that the trained model will read and write, in all: with plan.scaling=true, also the size and the training
    tokens that reach the job's loss with the fewest FLOPs of training and serving."""
    inference: bool = False
    """Print whether the model and its cache fit one GPU, by format of the weights, and how fast it could generate."""

    def __post_init__(self) -> None:
        """Refuse an empty path, and rates and prices that are not positive."""
        require(self.out != "", "plan.out", "''", "must name a directory; leave it out for <run.root>/<run.name>")
        price = self.price_per_gpu_hour
        require(price is None or price > 0, "plan.price_per_gpu_hour", price, "must be greater than 0, or null")
        for key in ("gpus", "machine", "global_batch_size"):
            value, rule = getattr(self, key), "is for plan.search alone; add plan.search=true"
            require(value is None or self.search, f"plan.{key}", value, rule)
        for key in ("gpus", "global_batch_size"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"plan.{key}", value, "must be at least 1, or null")
        for key in ("storage_gigabytes_per_second", "hours_between_failures"):
            require(getattr(self, key) > 0, f"plan.{key}", getattr(self, key), "must be greater than 0")
        require(self.restart_minutes >= 0, "plan.restart_minutes", self.restart_minutes, "must be at least 0")
        served = self.served_tokens
        require(served is None or served >= 0, "plan.served_tokens", served, "must be at least 0, or null")
        rule = "is used with plan.scaling=true alone; set it, or leave this out"
        require(served is None or self.scaling, "plan.served_tokens", served, rule)


@dataclass(kw_only=True)
class PlanJob(TrainJob):
    """A training job that is shown instead of run."""

    plan: PlanConfig = field(default_factory=PlanConfig)
    """What the planner does beside its tables, and the prices and rates that it uses."""

    @property
    def directory(self) -> Path:
        """Where plan.json and the pictures go."""
        return Path(self.plan.out or Path(self.run.root, self.run.name))
