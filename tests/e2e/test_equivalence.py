"""The equivalence contract: the same 30 steps of the same job, run in every way there is, give the same training.

Each way is a row of the table in docs/equivalence.md: `nox -s e2e -- --write-table docs/equivalence.md`.
"""

import csv
import dataclasses
import platform
import random
from pathlib import Path

import lightning
import pytest
import torch
from training_process import metric_rows, read_tensors, start_training, wait_until
from verb import nemotron4

from nemotron4_model import Recompute
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.reading import Checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
]

JOB = (
    "experiment=smoke", "data.dir=data/tiny", "model.vocab_size=1024", "model.num_key_value_heads=4", "logger=csv",
    "trainer.save_interval_steps=1", "trainer.keep_checkpoints=30", "trainer.validation_bytes_per_source=200",
    "launcher.num_threads=1",
)  # fmt: skip
NUM_STEPS = 30
TOLERANCE = 1e-5
"""Largest relative difference, in fp32, of ways whose sums have another order."""
BF16_TOLERANCE = {"loss": 1e-4, "grad_norm": 1e-3, "gradient": 2e-2}
"""The same in bf16, whose numbers have 8 bits: ranks round their own sums, and 30 steps carry that on."""


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of running the job: one command after another with these overrides, in one run directory."""

    name: str
    launches: list[list[str]]
    equals: str | None = None
    """The way whose every bit it must have; None where sums have an order of their own."""
    killed: bool = False
    """The first launch is killed at a random step."""
    cache: str | None = None
    """Inductor's cache; a way finds it as the ways before have left it."""
    against: str = "1 process"
    """The way that its differences are relative to."""


def mesh(replicate: int, shard: int, tensor: int) -> list[str]:
    return [f"topology.replicate={replicate}", f"topology.shard={shard}", f"topology.tensor={tensor}"]


FIRST = "1 process"
UNTIL_10, UNTIL_20 = ["trainer.max_steps=10"], ["trainer.max_steps=20"]
SELDOM = ["trainer.save_interval_steps=4"]
COMPILED = ["topology.compile=true"]
BF16, IN_BF16 = "1 process, bf16", ["precision=bf16"]
WAYS = [
    Way(FIRST, [[]]),
    Way("FSDP2 x2", [mesh(1, 2, 1)]),
    Way("FSDP2 x4", [mesh(1, 4, 1)]),
    Way("tensor x2", [mesh(1, 1, 2)]),
    Way("tensor x4", [mesh(1, 1, 4)]),
    Way("FSDP2 x2, tensor x2", [mesh(1, 2, 2)]),
    Way("HSDP: 2 replicas, FSDP2 x2", [mesh(2, 2, 1)]),
    Way("micro-batches of 2", [["topology.micro_batch_size=2"]]),
    Way("micro-batches of 1, FSDP2 x2", [[*mesh(1, 2, 1), "topology.micro_batch_size=1"]]),
    Way("resumed at step 10", [UNTIL_10, []], FIRST),
    Way("resumed at step 10, FSDP2 x2, tensor x2", [mesh(1, 2, 2) + UNTIL_10, mesh(1, 2, 2)], "FSDP2 x2, tensor x2"),
    Way("tensor x4 to step 10, FSDP2 x2, tensor x2 to step 20, 1 process",
        [mesh(1, 1, 4) + UNTIL_10, mesh(1, 2, 2) + UNTIL_20, []]),
    Way("SIGKILL at a random step, resumed", [SELDOM, SELDOM], FIRST, killed=True),
    Way("SIGKILL at a random step, resumed, FSDP2 x2", [mesh(1, 2, 1) + SELDOM] * 2, "FSDP2 x2", killed=True),
    *(Way(f"recompute {kind.name}", [[f"topology.recompute={kind.name}"]], FIRST)
      for kind in Recompute if kind is not Recompute.none),
    Way("compiled, cold cache", [COMPILED], cache="1"),
    Way("compiled, warm cache", [COMPILED], "compiled, cold cache", cache="1"),
    Way("compiled, FSDP2 x2, cold cache", [COMPILED + mesh(1, 2, 1)], cache="2"),
    Way("compiled, FSDP2 x2, warm cache", [COMPILED + mesh(1, 2, 1)], "compiled, FSDP2 x2, cold cache", cache="2"),
    Way(BF16, [IN_BF16], against=BF16),
    Way("FSDP2 x2, bf16", [IN_BF16 + mesh(1, 2, 1)], against=BF16),
    Way("tensor x2, bf16", [IN_BF16 + mesh(1, 1, 2)], against=BF16),
    Way("FSDP2 x2, tensor x2, bf16", [IN_BF16 + mesh(1, 2, 2)], against=BF16),
]  # fmt: skip
MOVED = next(way for way in WAYS if len(way.launches) == 3)


@dataclasses.dataclass
class Outcome:
    """What a way came to."""

    run: Path
    rows: list[dict[str, str]]
    tensors: dict[str, torch.Tensor]
    """Weights and optimiser state after the last step."""
    gradients: dict[str, torch.Tensor] | None
    """After the first step, by parameter: AdamW's first moment, which is then a tenth of the clipped gradient. None
    when no checkpoint was kept of that step."""
    ledger: str
    validation: dict[str, torch.Tensor]
    """Held-out bits per byte by step: overall, and by domain."""

    def column(self, name: str) -> torch.Tensor:
        return torch.tensor([float(row[name]) for row in self.rows], dtype=torch.float64)

    def same_bits(self, other: "Outcome") -> bool:
        return (
            self.rows == other.rows
            and self.tensors.keys() == other.tensors.keys()
            and all(torch.equal(tensor, other.tensors[name]) for name, tensor in self.tensors.items())
        )


def run_way(way: Way, workspace: Path) -> Outcome:
    name = f"run.name=way_{WAYS.index(way)}"
    run = workspace / "runs" / f"way_{WAYS.index(way)}" / "latest"
    launches = way.launches
    if way.killed:
        step = random.Random(way.name).randrange(5, NUM_STEPS - 3)
        process = start_training(*JOB, name, *launches[0], cwd=workspace)
        wait_until(lambda: len(metric_rows(run)) >= step, process)
        process.kill()
        process.wait()
        assert len(metric_rows(run)) < NUM_STEPS
        launches = launches[1:]
    for overrides in launches:
        nemotron4("train", *JOB, name, *overrides, cwd=workspace)
    assert len(list(run.parent.glob("2*"))) == 1, "a later command began a new run"
    first, last = (reading.checkpoint_directory(run, step) for step in (1, NUM_STEPS))
    moments = read_tensors(first) if first.exists() else {}
    return Outcome(
        run=run,
        rows=metric_rows(run),
        tensors=read_tensors(last),
        gradients={name: tensor for name, tensor in moments.items() if name.endswith("exp_avg")} or None,
        ledger=Checkpoint.open(last).ledger.sequence,
        validation=read_validation(run),
    )


def read_validation(run: Path) -> dict[str, torch.Tensor]:
    with (run / "validation.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {step: torch.tensor([float(value) for value in values], dtype=torch.float64) for step, *values in rows}


class Outcomes(dict[str, Outcome]):
    """By name, the outcome of each way; one that is asked for the first time is run."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace

    def __missing__(self, name: str) -> Outcome:
        (way,) = (way for way in WAYS if way.name == name)
        with pytest.MonkeyPatch.context() as environment:
            if way.cache is not None:
                cache = self.workspace / "inductor" / way.cache
                assert cache.exists() == (way.equals is not None), (
                    "cold means that there is no cache, warm that there is one"
                )
                environment.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
            self[name] = run_way(way, self.workspace)
        return self[name]


@pytest.fixture(scope="module")
def outcomes(workspace):
    return Outcomes(workspace)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative difference of two columns."""
    return float(((found - expected).abs() / expected.abs()).max())


def gradient_difference(found: Outcome, expected: Outcome) -> float | None:
    """Of all parameters, the largest norm of the difference of a gradient over the norm of that gradient."""
    if found.gradients is None:
        return None
    assert found.gradients.keys() == expected.gradients.keys()
    pairs = [(found.gradients[name], gradient) for name, gradient in expected.gradients.items()]
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way_of_running_gives_the_same_training(way, workspace, outcomes):
    first = outcomes[way.against]
    expected = outcomes[way.equals] if way.equals else None
    found = outcomes[way.name]
    assert [row["step"] for row in found.rows] == [str(step) for step in range(1, NUM_STEPS + 1)]
    for name in ("tokens", "lr", "global_batch_size", "phase"):
        assert [row[name] for row in found.rows] == [row[name] for row in first.rows]
    assert found.ledger == first.ledger
    tolerances = BF16_TOLERANCE if way.against == BF16 else dict.fromkeys(BF16_TOLERANCE, TOLERANCE)
    for name in ("loss", "grad_norm"):
        assert difference(found.column(name), first.column(name)) <= tolerances[name]
    for step, validation in first.validation.items():  # a run that stops on its way validates there too
        assert difference(found.validation[step], validation) <= tolerances["loss"]
    assert way.killed or gradient_difference(found, first) <= tolerances["gradient"]
    if expected is not None:
        assert found.same_bits(expected)
    if way.cache == "2":
        assert {path.name for path in (workspace / "inductor" / way.cache).iterdir()} == {"rank-0", "rank-1"}


def test_a_run_moved_between_topologies_read_every_sample_once(workspace, outcomes):
    run = outcomes[MOVED.name].run
    shown = nemotron4("data", "verify", "data.dir=data/tiny", f"run={run}", cwd=workspace).stdout
    assert "200 samples match the ledger" in " ".join(shown.split())
    assert [len(list((run / "checkpoints" / f"step-000000{step}").glob("*.distcp"))) for step in (10, 20, 30)] == [
        2 * 4,
        2 * 4,
        2 * 1,
    ]


BF16_LIMITS = "{loss:g} for the loss, {grad_norm:g} for the gradient norm and {gradient:g}".format(**BF16_TOLERANCE)
PAGE = f"""\
# Equivalence

However a job is run, it trains the same model. Made by `python -m nox -s e2e -- --write-table docs/equivalence.md` with
torch {{torch}}, Lightning {{lightning}} and Python {{python}} on the CPU (gloo), in fp32 and bf16. The job:

```
nemotron4 train {" ".join(JOB)}
```

Each row is a way of running its {NUM_STEPS} steps, through a batch ramp and a change of blend. Differences are
relative to the first row, or to the first row in bf16: the largest of loss and gradient norm over all steps, and that
of the first step's gradient over all parameters (norm of the difference over the norm; a row without a checkpoint of
that step has none). "Same bits as" names a row with bit-identical losses, norms, weights and optimiser state, which is
required where the order of arithmetic is the same; elsewhere the session fails beyond {TOLERANCE:g}, and in bf16 beyond
{BF16_LIMITS} for the first gradients. "Samples" is the beginning of the
digest of all samples in order, from the [ledger](glossary.md#ledger) of the last checkpoint: the same everywhere.

{{table}}
"""


def line(way: Way, outcomes: dict[str, Outcome]) -> str:
    found, first = outcomes[way.name], outcomes[way.against]
    gradients = gradient_difference(found, first)
    same = [
        name for name in (way.against, way.equals) if name not in (None, way.name) and found.same_bits(outcomes[name])
    ]
    cells = [
        way.name,
        *(f"{float(found.rows[index]['loss']):.7f}" for index in (0, -1)),
        *(f"{difference(found.column(name), first.column(name)):.1e}" for name in ("loss", "grad_norm")),
        "" if gradients is None else f"{gradients:.1e}",
        "" if way.name == way.against else same[0] if same else "no",
        found.ledger[:12],
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table(outcomes, pytestconfig, capsys):
    """Printed, and written where `--write-table` says."""
    heading = "| way | first loss | last loss | Δ loss | Δ gradient norm | Δ first gradients | same bits as | samples |"
    lines = [heading, "|---|---|---|---|---|---|---|---|"]
    lines += [line(way, outcomes) for way in WAYS if way.name in outcomes]
    with capsys.disabled():
        print("", *lines, sep="\n")
    if path := pytestconfig.getoption("--write-table", None):
        assert len(outcomes) == len(WAYS), "some ways were not run"
        versions = {"torch": torch.__version__, "lightning": lightning.__version__, "python": platform.python_version()}
        Path(path).write_text(PAGE.format(table="\n".join(lines), **versions), encoding="utf-8")
