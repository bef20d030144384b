"""The job of `nemotron4 eval`."""

from dataclasses import dataclass, field
from pathlib import Path

from nemotron4_common.rules import require
from nemotron4_data.data_config import DataDirConfig
from nemotron4_eval.provenance import find_run, read_provenance
from nemotron4_model import DType

RESULT_FILE = "eval.json"
"""Where a result is stored, in the directory of the model's run."""


@dataclass(kw_only=True)
class SuiteConfig:
    """What is measured: bits per byte of held-out text always, and LM Evaluation Harness tasks."""

    name: str = "bits_per_byte"
    """Name of the suite, for the report."""

    tasks: list[str] = field(default_factory=list)
    """Harness tasks: heldout_continuation (built from the corpus), or a path of a harness task YAML."""

    window_tokens: int | None = None
    """Context, in tokens, of the bits-per-byte windows; null means the model's own sequence length."""

    stride_tokens: int | None = None
    """Tokens newly scored in each further window of a long document; null means half a window."""

    max_bytes_per_source: int | None = None
    """Score whole documents of each source up to about this many bytes; null means all held-out text."""

    num_items: int = 200
    """Most items of heldout_continuation."""

    seed: int = 0
    """Seed of the choice of heldout_continuation's passages and distractors."""

    def __post_init__(self) -> None:
        for name in ("window_tokens", "stride_tokens", "max_bytes_per_source", "num_items"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"suite.{name}", value, "must be at least 1")
        window, stride = self.window_tokens, self.stride_tokens
        rule = f"must be at most suite.window_tokens ({window}), or tokens between windows would not be scored"
        require(not window or not stride or stride <= window, "suite.stride_tokens", stride, rule)


@dataclass(kw_only=True)
class EvalJob:
    """Measure a model directory on a prepared corpus's held-out text and on harness tasks."""

    model_dir: str
    """Model directory, e.g. runs/demo/latest/export."""

    data: DataDirConfig = field(default_factory=DataDirConfig)
    """The corpus whose held-out split is scored."""

    suite: SuiteConfig = field(default_factory=SuiteConfig)
    """What is measured."""

    output: str | None = None
    """Result file; null means eval.json in the run that the model is of by its provenance.json, which `report` reads,
    or, where that run is not found, in the model directory."""

    limit: int | None = None
    """Most items of each harness task, for a quick look; null means all."""

    dtype: DType | None = None
    """Format of weights and activations, fp32 or bf16; null means bf16 on a GPU, fp32 on a CPU."""

    def __post_init__(self) -> None:
        limit = self.limit
        require(limit is None or limit >= 1, "limit", limit, "must be at least 1, or null for all items")
        rule = "must name the result file; leave it out for eval.json beside the model"
        require(self.output != "", "output", "''", rule)

    @property
    def output_path(self) -> Path:
        """Where the result is written: for an export of runs/x/y, to runs/x/y/eval.json."""
        if self.output is not None:
            return Path(self.output)
        model = Path(self.model_dir)
        return (find_run(model, read_provenance(model)) or model) / RESULT_FILE
