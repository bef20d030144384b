"""The job of `nemotron4 eval`."""

from dataclasses import dataclass, field
from pathlib import Path

from nemotron4_common.rules import require
from nemotron4_data.data_config import DataDirConfig
from nemotron4_eval.provenance import find_run, read_provenance
from nemotron4_eval.suites.config import SuiteConfig
from nemotron4_model import DType

RESULT_FILE = "eval.json"
"""Where a result is stored, in `out`."""


@dataclass(kw_only=True)
class EvalJob:
    """Measure a model directory: held-out text of a prepared corpus, the paper's benchmarks, other tasks."""

    model_dir: str
    """Model directory, e.g. runs/demo/latest/export."""

    data: DataDirConfig = field(default_factory=DataDirConfig)
    """The corpus whose held-out split is scored."""

    suite: SuiteConfig = field(default_factory=SuiteConfig)
    """What is measured."""

    out: str | None = None
    """Directory of the results. Null means, for a suite of held-out text, the run that the model is of by its
    provenance.json, whose `report` reads eval.json there, and for a suite of benchmarks eval/SUITE in it. Where that
    run is not found, the model directory takes its place."""

    dtype: DType | None = None
    """Format of weights and activations, fp32 or bf16; null means bf16 on a GPU, fp32 on a CPU."""

    def __post_init__(self) -> None:
        require(self.out != "", "out", "''", "must name a directory; leave it out for the model's run")

    @property
    def out_path(self) -> Path:
        """The directory of the results: for an export of runs/x/y, runs/x/y or runs/x/y/eval/SUITE."""
        if self.out is not None:
            return Path(self.out)
        model = Path(self.model_dir)
        run = find_run(model, read_provenance(model)) or model
        return run if self.suite.is_heldout else run / "eval" / self.suite.name

    @property
    def result_path(self) -> Path:
        """eval.json."""
        return self.out_path / RESULT_FILE
