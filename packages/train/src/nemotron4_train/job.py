"""The training job: one dataclass with everything that defines a run, composed from conf/train.yaml + overrides.

Invariant: any `TrainJob` that exists is consistent: every rule that spans groups is checked in
`__post_init__`, on the machine where the user typed the command, before any worker starts.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

from nemotron4_common.rules import check_finite, divisors, nearest, require
from nemotron4_data.blend import BlendConfig
from nemotron4_data.data_config import DataDirConfig
from nemotron4_model.config import ModelConfig
from nemotron4_model.dtype import DType
from nemotron4_train.budget import fit_to_budget
from nemotron4_train.evaluation import EvaluationConfig
from nemotron4_train.launcher_config import LauncherConfig
from nemotron4_train.schedule import Phase, Schedule, Timeline
from nemotron4_train.topology import Device, TopologyConfig

_SPLIT_OVER_TENSOR = ("num_key_value_heads", "intermediate_size", "vocab_size")
"""Sizes of the model that each tensor-parallel rank holds a share of."""


def may_change(key: str) -> bool:
    """Whether a run may continue with another value of a dotted key, if run.allow_changed lists it."""
    return key.split(".")[0] not in ("seed", "model")


@dataclass(kw_only=True)
class RunConfig:
    """Where a run writes."""

    name: str = "run"
    """The experiment's name; runs live in <root>/<name>/<time>/."""
    root: str = "runs"
    """Directory of all runs."""
    dir: str | None = None
    """The run's directory: new, empty or that of an earlier run; null makes <root>/<name>/<time>, or takes the run that
    resume=auto finds."""
    allow_changed: list[str] = field(default_factory=list)
    """Dotted keys or groups whose values may differ from those that the run in run.dir was started with."""

    def __post_init__(self) -> None:
        """Refuse an empty path (from an unset variable), a name outside the root, and a change of model or seed."""
        require(self.dir != "", "run.dir", "''", "must name a directory; leave it out for <run.root>/<run.name>/<time>")
        require(self.root != "", "run.root", "''", "must name a directory, such as runs")
        parts = Path(self.name).parts
        inside = bool(parts) and not Path(self.name).is_absolute() and ".." not in parts
        require(inside, "run.name", repr(self.name), "must stay below run.root; set run.root=DIR to write elsewhere")
        for name in self.allow_changed:
            rule = "weights and data order depend on it; start another run"
            require(may_change(name), "run.allow_changed", name, rule)


@dataclass(kw_only=True)
class DataConfig:
    """The prepared corpus and how it is read."""

    dir: str = DataDirConfig.dir
    """A directory that `nemotron4 prepare` or `nemotron4 data adopt` made."""
    num_workers: int | None = None
    """Processes per rank that read the next steps' batches; 0 reads in the training process; null means 2 on CUDA, and
    0 on a CPU, whose cores train."""
    mask_documents: bool = False
    """Where a sample packs several documents, attend within each alone, with positions from 0; false attends across
    them. On a GPU, fast in bf16 and fp8 only: fp32 holds a mask of sequence length squared."""
    verify: bool = True
    """Before training, check the hash of every file of the corpus against its manifest; this reads all of it."""

    def __post_init__(self) -> None:
        """Refuse a negative number of processes."""
        valid = self.num_workers is None or self.num_workers >= 0
        require(valid, "data.num_workers", self.num_workers, "must be at least 0, or null")


class OptimizerKind(Enum):
    """What updates the blocks' matrices; embeddings, head and norms always use AdamW."""

    adamw = "adamw"
    muon = "muon"


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW as in the reports (betas 0.9/0.95, decay 0.1 except on norms, clip 1.0), optionally with Muon."""

    kind: OptimizerKind = OptimizerKind.adamw
    """adamw for all parameters, or muon for the matrices of the blocks and AdamW for the rest."""
    lr: float = 4.5e-4
    """Peak learning rate; with Muon, of all but the blocks' matrices. The schedule's fractions multiply every peak."""
    embedding_lr: float | None = None
    """Peak learning rate of the input embedding, whose rows get gradients only where their token occurs; null means
    lr."""
    head_lr: float | None = None
    """Peak learning rate of the output head; null means lr."""
    beta1: float = 0.9
    """Decay per step of AdamW's first moment, a fraction."""
    beta2: float = 0.95
    """Decay per step of AdamW's second moment, a fraction."""
    epsilon: float = 1e-8
    """Number added to the square root of AdamW's second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices, multiplied by the learning rate; norms and biases have none."""
    clip_norm: float = 1.0
    """Global gradient norm above which gradients are scaled down to it."""
    muon_lr: float = 0.02
    """Peak learning rate of the blocks' matrices with Muon, the one to sweep; the schedule's fractions multiply it."""
    muon_momentum: float = 0.95
    """Decay per step of Muon's momentum, a fraction."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require(self.lr > 0, "optimizer.lr", self.lr, "must be greater than 0")
        for key in ("embedding_lr", "head_lr"):
            rate = getattr(self, key)
            require(rate is None or rate > 0, f"optimizer.{key}", rate, "must be greater than 0, or null")
        require(0 <= self.beta1 < 1, "optimizer.beta1", self.beta1, "must be in [0, 1)")
        require(0 <= self.beta2 < 1, "optimizer.beta2", self.beta2, "must be in [0, 1)")
        require(self.epsilon > 0, "optimizer.epsilon", self.epsilon, "must be greater than 0")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "must be at least 0")
        require(self.clip_norm > 0, "optimizer.clip_norm", self.clip_norm, "must be greater than 0")
        require(self.muon_lr > 0, "optimizer.muon_lr", self.muon_lr, "must be greater than 0")
        require(0 <= self.muon_momentum < 1, "optimizer.muon_momentum", self.muon_momentum, "must be in [0, 1)")

    @property
    def matrix_lr(self) -> float:
        """Peak learning rate of the blocks' matrices: what records and plots call the learning rate."""
        return self.muon_lr if self.kind is OptimizerKind.muon else self.lr


class Precision(Enum):
    """Arithmetic of the forward and backward pass; parameters and optimiser state stay fp32."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp8 = "fp8"

    @property
    def dtype(self) -> DType:
        """The format of activations; fp8 narrows only the matrix products in the blocks."""
        return DType.bf16 if self is Precision.fp8 else DType[self.name]


@dataclass(kw_only=True)
class PrecisionConfig:
    """Arithmetic of training."""

    compute: Precision = Precision.fp32
    """Format of activations, and of the weights in forward and backward: fp32; bf16; or fp8 (bf16, but float8 for the
    products in the blocks), which needs topology.compile=true and topology.tensor=1."""
    reduce: DType = DType.fp32
    """Format in which gradients are summed, over micro-batches and data-parallel ranks: fp32 or bf16."""


@dataclass(kw_only=True)
class TrainerConfig:
    """How often a run logs, saves and validates, and which steps it skips."""

    max_steps: int | None = None
    """Stop after this many optimiser steps of the timeline; null runs all of it."""
    log_interval_steps: int = 10
    """Steps between log lines, and between points of the TensorBoard curves."""
    save_interval_steps: int = 500
    """Steps between checkpoints."""
    async_checkpoint: bool = True
    """Write checkpoints while training continues, from one copy in host memory; false pauses training meanwhile."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep; older ones are deleted."""
    keep_phase_ends: bool = True
    """Also save at the end of each phase of the schedule, and keep those checkpoints for good."""
    validation_interval_steps: int = 500
    """Steps between validations; the last step is always validated."""
    validation_bytes_per_source: int | None = 20_000
    """Bytes of held-out text that a validation during training reads of each source; null reads all."""
    deterministic: bool | None = None
    """Use deterministic kernels, so that a resumed run repeats the uninterrupted one to the bit; null: on a CPU only,
    because on CUDA the fastest attention is not among them. run.json says what was used."""
    spike_sigma: float | None = 10.0
    """Skip a step whose loss or gradient norm is this many standard deviations above the mean of recent steps; null
    skips only those that are not finite."""
    spike_window_steps: int = 128
    """Accepted steps of the same phase over which that mean is taken; while there are fewer, no spike is detected."""
    max_skipped_steps_in_a_row: int = 10
    """Stop with a diagnosis after this many skipped steps in a row."""
    profile_first_step: int | None = None
    """First optimiser step, counted from 1, that torch.profiler records; each rank writes a trace to <run>/profile/.
    null records none."""
    profile_num_steps: int = 3
    """Number of optimiser steps that the profiler records."""

    def __post_init__(self) -> None:
        """Refuse intervals that are not positive."""
        for key in ("log_interval_steps", "save_interval_steps", "keep_checkpoints", "validation_interval_steps"):
            require(getattr(self, key) >= 1, f"trainer.{key}", getattr(self, key), "must be at least 1")
        for key in ("spike_window_steps", "max_skipped_steps_in_a_row"):
            require(getattr(self, key) >= 1, f"trainer.{key}", getattr(self, key), "must be at least 1")
        if self.spike_sigma is not None:
            require(self.spike_sigma > 0, "trainer.spike_sigma", self.spike_sigma, "must be above 0, or null")
        for key in ("max_steps", "validation_bytes_per_source"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"trainer.{key}", value, "must be at least 1, or null")
        if self.profile_first_step is not None:
            require(
                self.profile_first_step >= 2,
                "trainer.profile_first_step",
                self.profile_first_step,
                "must be at least 2, because the step before it warms the profiler up, or null",
            )
        require(self.profile_num_steps >= 1, "trainer.profile_num_steps", self.profile_num_steps, "must be at least 1")


@dataclass(kw_only=True)
class LoggerConfig:
    """Where metrics go besides metrics.csv and the terminal."""

    tensorboard: bool = True
    """Write TensorBoard event files below the run directory."""
    wandb: bool = False
    """Log to Weights & Biases; WANDB_MODE=offline keeps the log below the run directory."""
    wandb_project: str = "nemotron4"
    """Project on Weights & Biases."""
    wandb_entity: str | None = None
    """User or team on Weights & Biases; null is the account's default."""
    mlflow: bool = False
    """Log to MLflow."""
    mlflow_tracking_uri: str | None = None
    """MLflow's server or database; null takes MLFLOW_TRACKING_URI from the environment."""
    mlflow_experiment: str = "nemotron4"
    """Experiment in MLflow."""


@dataclass(kw_only=True)
class TrainJob:
    """Everything that defines a training run."""

    run: RunConfig = field(default_factory=RunConfig)
    """Where the run writes."""
    seed: int = 1234
    """Seed of the initial weights and of the data order."""
    resume: str = "auto"
    """Where to start: auto (the newest checkpoint of the same job), never (from the first step), or the path of a
    checkpoint."""
    start_from: str | None = None
    """A model directory, such as an export or a published Nemotron model, whose weights, architecture and tokenizer the
    run begins with; null draws new weights."""
    model: ModelConfig
    """The model's architecture."""
    data: DataConfig = field(default_factory=DataConfig)
    """The prepared corpus and how it is read."""
    blend: BlendConfig
    """The distributions of text that phases draw from."""
    schedule: Schedule
    """The timeline of training: phases, each with its number of tokens."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW for all parameters, or Muon for the matrices of the blocks and AdamW for the rest."""
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    """The mesh of ranks and the machines it covers."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Number formats of the arithmetic."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """How often a run logs, saves and validates, and which steps it skips."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Benchmarks during training: multiple choice in full, of others the bits per byte of the right answers."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Where metrics go besides metrics.csv and the terminal."""
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    """What starts the workers, on this machine or on Slurm."""
    afterwards: list[str] = field(default_factory=list)
    """Commands to run after a complete run, such as `export run={run}` or `eval model_dir={run}/export`, without the
    program's name; {run} is the run's directory, {data} is data.dir."""

    def __post_init__(self) -> None:
        """Check the rules that span groups; raises ValueError with the dotted keys."""
        check_finite(self)
        require(self.start_from != "", "start_from", "''", "must name a model directory; leave it out for new weights")
        require(
            self.start_from is None or self.resume in ("auto", "never"),
            "start_from",
            self.start_from,
            f"cannot be combined with resume={self.resume}, which has weights of its own; leave one out",
        )
        require(
            bool(self.schedule.phases), "schedule", "empty", "needs at least one phase; choose one: schedule=OPTION"
        )
        self.schedule = fit_to_budget(self.schedule, self.model)
        for name, phase in self.schedule.phases.items():
            key = f"schedule.phases.{name}"
            known = ", ".join(self.blend.distributions)
            require(
                phase.blend in self.blend.distributions,
                f"{key}.blend",
                phase.blend,
                f"not a distribution of the blend; it has: {known}",
            )
            require(
                phase.sequence_length <= self.model.max_sequence_length,
                f"{key}.sequence_length",
                phase.sequence_length,
                f"must not exceed model.max_sequence_length = {self.model.max_sequence_length}",
            )
            where = "topology" if phase.topology is None else f"{key}.topology"
            self._check_phase_on(phase.topology or self.topology, where, phase, key)

    def _check_phase_on(self, topology: TopologyConfig, where: str, phase: Phase, key: str) -> None:
        """Check that the phase and the model fit a topology; `where` is its key."""
        ranks, micro, tensor = topology.num_data_ranks, topology.micro_batch_size, topology.tensor
        local = phase.global_batch_size // ranks
        require(
            phase.global_batch_size % ranks == 0 and local % min(micro, max(local, 1)) == 0,
            f"{key}.global_batch_size",
            phase.global_batch_size,
            f"must be a multiple of {where}.replicate x shard = {ranks} ranks,"
            f" and each rank's share a multiple of {where}.micro_batch_size = {micro};"
            f" {_nearest_shares(phase.global_batch_size, ranks, micro)}",
        )
        sizes = {f"{key}.sequence_length": phase.sequence_length}
        sizes |= {f"model.{name}": getattr(self.model, name) for name in _SPLIT_OVER_TENSOR}
        choices = nearest(tensor, divisors(math.gcd(*sizes.values())))
        for name, value in sizes.items():
            rule = f"must be divisible by {where}.tensor = {tensor}; nearest tensor sizes: {choices}"
            require(value % tensor == 0, name, value, rule)
        if self.precision.compute is Precision.fp8:
            self._check_float8(topology, where)

    def _check_float8(self, topology: TopologyConfig, where: str) -> None:
        """Check what does not need the training machine; nemotron4_model.parallel.float8 checks the rest."""
        for holds, rule in (
            (topology.device is Device.cuda, "needs torchao and an H100 or newer; use precision=bf16"),
            (topology.tensor == 1, f"not with {where}.tensor = {topology.tensor}; set it to 1 or use precision=bf16"),
            (topology.compile, f"uncompiled, it is slower than bf16; set {where}.compile=true or use precision=bf16"),
        ):
            require(holds, "precision.compute", "fp8", rule)
        for key in ("hidden_size", "intermediate_size"):
            value = getattr(self.model, key)
            require(value % 16 == 0, f"model.{key}", value, "must be a multiple of 16 for fp8")

    @property
    def is_deterministic(self) -> bool:
        """Whether it uses deterministic kernels: as trainer.deterministic asks, by the device if that is null."""
        asked = self.trainer.deterministic
        return self.topology.device is Device.cpu if asked is None else asked

    @property
    def num_reader_processes(self) -> int:
        """Reader processes per rank: as data.num_workers asks, by the device if that is null."""
        asked = self.data.num_workers
        return 2 * (self.topology.device is Device.cuda) if asked is None else asked

    def timeline(self) -> Timeline:
        """The schedule expanded into steps, up to trainer.max_steps."""
        return Timeline(self.schedule, self.trainer.max_steps)

    def identity(self) -> dict[str, object]:
        """The settings that decide the weights: jobs that agree in them train the same weights from the same data.

        The topology is not one: batches and their order do not depend on it, and weights only by the order of sums.
        """
        described = asdict(self)
        for group in ("run", "resume", "topology", "evaluation", "logger", "launcher", "afterwards"):
            del described[group]
        for key in ("num_workers", "verify"):
            del described["data"][key]
        if self.start_from is None:  # as before there was such a key
            del described["start_from"]
        del described["schedule"]["budget_flops"]  # already applied to the phases
        for phase in described["schedule"]["phases"].values():
            del phase["topology"]
        # The other trainer settings do not affect the weights.
        decides = ("deterministic", "spike_sigma", "spike_window_steps")
        described["trainer"] = {key: described["trainer"][key] for key in decides}
        # Null counts as true, the default of earlier versions, so that their runs, on any device, are still the same.
        described["trainer"]["deterministic"] = self.trainer.deterministic is not False
        plain: dict[str, object] = json.loads(json.dumps(described, default=lambda value: value.name))
        return plain

    def digest(self) -> str:
        """SHA-256 of the identity, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


def _nearest_shares(batch: int, ranks: int, micro: int) -> str:
    """The nearest global batches, and numbers of ranks, that make a share at most a micro-batch, or whole ones."""
    below, above = batch // ranks, -(-batch // ranks)
    if below > micro:
        below -= below % micro
    if above > micro:
        above += -above % micro
    shares = ((number, batch // number) for number in divisors(batch))
    fitting = [number for number, share in shares if share <= micro or share % micro == 0]
    return f"nearest: {nearest(batch, {below * ranks, above * ranks} - {0})}; or ranks: {nearest(ranks, fitting)}"
