"""How large a model, on how many tokens: what scaling laws choose for a job's FLOPs, and what serving changes.

Conventions: N counts all parameters, embeddings included, as Hoffmann et al. do (arXiv 2203.15556, appendix F).
Training on D tokens costs 6 N D FLOPs and serving a token costs 2 N, attention left out. A job's budget is its own
count (budget.py), 0.2 % above 6 N D for Nemotron-4 15B. Losses are in nats a token of the data of Hoffmann et al.
Invariant: arithmetic alone; a served token is as dear as its FLOPs, and none makes the best model larger.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from nemotron4_train.budget import training_flops
from nemotron4_train.plan.cells import Cells, short
from nemotron4_train.plan.plan_job import PlanJob


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model size and the tokens that it is trained on."""

    parameters: float
    tokens: float

    def flops(self, served_tokens: float = 0.0) -> float:
        """To train the model, and to serve tokens with it."""
        return self.parameters * (6 * self.tokens + 2 * served_tokens)


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """Best size and tokens as coefficient x FLOPs^exponent; it gives no loss."""

    name: str
    source: str
    parameters: tuple[float, float]
    """Coefficient and exponent."""
    tokens: tuple[float, float]
    """Coefficient and exponent."""

    def best(self, flops: float) -> Choice:
        """For a training budget."""
        (a, alpha), (b, beta) = self.parameters, self.tokens
        return Choice(parameters=a * flops**alpha, tokens=b * flops**beta)


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """The loss as E + A / N^alpha + B / D^beta."""

    name: str
    source: str
    e: float
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, at: Choice) -> float:
        """In nats a token."""
        return float(self.e + self.a / at.parameters**self.alpha + self.b / at.tokens**self.beta)

    def best(self, flops: float) -> Choice:
        """The lowest loss for a training budget: Hoffmann et al., equation 4."""
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return Choice(parameters=parameters, tokens=flops / 6 / parameters)

    def best_served(self, loss: float, served_tokens: float) -> Choice:
        """The fewest FLOPs for a loss when tokens are served too: min 6 N D + 2 N S (Sardana et al., arXiv 2401.00448).

        Along a line of equal loss, `served_at_best` grows as the loss that is due to D shrinks, so its logarithm is
        found by bisection. `loss` must be above E, `served_tokens` at least 0.
        """
        reducible = loss - self.e
        high = math.log(reducible * self.alpha / (self.alpha + self.beta))  # where no token is served
        low = high - 50
        for _ in range(80):
            middle = (low + high) / 2
            few = self.served_at_best(self._on_line(reducible, math.exp(middle))) < served_tokens
            low, high = (low, middle) if few else (middle, high)
        return self._on_line(reducible, math.exp((low + high) / 2))

    def served_at_best(self, at: Choice) -> float:
        """Served tokens at which no other size and tokens reach this loss with fewer FLOPs; below 0 if no number does.

        It is where the derivative of 6 N D + 2 N S along the line of equal loss is 0.
        """
        of_parameters = self.alpha * self.a / at.parameters**self.alpha
        of_tokens = self.beta * self.b / at.tokens**self.beta
        return float(3 * at.tokens * (of_parameters / of_tokens - 1))

    def tokens_for(self, loss: float, parameters: float) -> float:
        """Training tokens with which a size reaches a loss; infinite if none do."""
        rest = loss - self.e - self.a / parameters**self.alpha
        return float((self.b / rest) ** (1 / self.beta)) if rest > 0 else math.inf

    def _on_line(self, reducible: float, of_tokens: float) -> Choice:
        parameters = (self.a / (reducible - of_tokens)) ** (1 / self.alpha)
        return Choice(parameters=parameters, tokens=(self.b / of_tokens) ** (1 / self.beta))


def _through(parameters: float, flops: float, exponent: float) -> dict[str, tuple[float, float]]:
    """The power law of an exponent through a printed row, with D = C / 6N."""
    coefficient = parameters / flops**exponent
    return {"parameters": (coefficient, exponent), "tokens": (1 / (6 * coefficient), 1 - exponent)}


APPROACH_1 = PowerLaw(
    name="Hoffmann 2022, approach 1",
    source="arXiv 2203.15556: exponent of table 2, through 67B at 5.76e23 FLOPs of table 3",
    **_through(67e9, 5.76e23, 0.50),
)
APPROACH_2 = PowerLaw(
    name="Hoffmann 2022, approach 2",
    source="arXiv 2203.15556: exponent of table 2, through 67B at 6.88e23 FLOPs of table A3",
    **_through(67e9, 6.88e23, 0.49),
)
APPROACH_3 = LossLaw(
    name="Hoffmann 2022, approach 3",
    source="arXiv 2203.15556, equation 10, as printed; its rounded exponents do not give the paper's own table A3",
    e=1.69, a=406.4, alpha=0.34, b=410.7, beta=0.28,
)  # fmt: skip
CORRECTED = LossLaw(
    name="Besiroglu 2024",
    source="arXiv 2404.10102: approach 3 fitted again to the same runs, which agrees with approaches 1 and 2",
    e=1.8172, a=482.01, alpha=0.3478, b=2085.43, beta=0.3658,
)  # fmt: skip
MEASURED = PowerLaw(
    name="docs/isoflop.md",
    source="measured by this project at 1.5e12 to 1e13 FLOPs; no evidence far beyond; N without the input embedding",
    parameters=(0.005097609308783029, 0.5899353893325054),
    tokens=(10.143063603707782, 0.4415249998899356),
)
LAWS: tuple[PowerLaw | LossLaw, ...] = (APPROACH_1, APPROACH_2, APPROACH_3, CORRECTED, MEASURED)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What a law says about a job."""

    law: PowerLaw | LossLaw
    best: Choice
    """For the job's training FLOPs."""
    job_loss: float | None
    """In nats a token; None, as the fields below, of a law that gives no loss."""
    best_loss: float | None
    served_at_best: float | None
    """Tokens served that make the job's own choice the best; below 0 if no number does, the model being too large."""
    served: Choice | None
    """The fewest FLOPs for the job's loss when plan.served_tokens are served; None where that is null, too."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """A job beside the laws."""

    training_flops: float
    job: Choice
    served_tokens: float | None
    advice: tuple[Advice, ...]


def scaling(job: PlanJob) -> Scaling:
    """Ask every law about a job."""
    timeline = job.timeline()
    own = Choice(parameters=job.model.num_parameters, tokens=timeline.num_tokens)
    return ask(own, training_flops(timeline, job.model), job.plan.served_tokens)


def ask(own: Choice, training_flops: float, served_tokens: float | None) -> Scaling:
    """Ask every law about a size and its tokens, which cost `training_flops`."""
    advice = tuple(_ask(law, training_flops, own, served_tokens) for law in LAWS)
    return Scaling(training_flops=training_flops, job=own, served_tokens=served_tokens, advice=advice)


def _ask(law: PowerLaw | LossLaw, flops: float, own: Choice, served_tokens: float | None) -> Advice:
    best = law.best(flops)
    if isinstance(law, PowerLaw):
        return Advice(law=law, best=best, job_loss=None, best_loss=None, served_at_best=None, served=None)
    loss = law.loss(own)
    return Advice(
        law=law,
        best=best,
        job_loss=loss,
        best_loss=law.loss(best),
        served_at_best=law.served_at_best(own),
        served=None if served_tokens is None else law.best_served(loss, served_tokens),
    )


def as_json(found: Scaling) -> dict[str, Any]:
    """The `scaling` of plan.json; FLOPs and losses (nats a token) as the conventions above say."""
    laws = [
        {
            "name": each.law.name,
            "source": each.law.source,
            "best": asdict(each.best),
            "best_loss_nats_per_token": each.best_loss,
            "job_loss_nats_per_token": each.job_loss,
            "served_tokens_at_which_job_is_best": each.served_at_best,
            "served": each.served
            and asdict(each.served)
            | {"training_flops": each.served.flops(), "total_flops": each.served.flops(found.served_tokens or 0.0)},
        }
        for each in found.advice
    ]
    return {
        "training_flops": found.training_flops,
        **asdict(found.job),
        "served_tokens": found.served_tokens,
        "laws": laws,
    }


def cells(found: Scaling) -> Cells:
    """What each law says of the job's training FLOPs, a row each; the job is the first."""
    own = found.job
    header = [
        "law",
        "parameters",
        "tokens",
        "tokens per parameter",
        "loss",
        "loss of this job",
        "served tokens that make this job best",
    ]
    rows = [["this job", *_choice(own), "", "", ""]]
    for each in found.advice:
        row = [
            each.law.name,
            *_choice(each.best),
            *(f"{loss:.3f}" if loss else "" for loss in (each.best_loss, each.job_loss)),
        ]
        served = each.served_at_best
        row.append("" if served is None else short(served) if served >= 0 else "no number")
        rows.append(row)
    caption = (
        "N counts all parameters; 6 N D FLOPs of training, 2 N to serve a token. The published laws were fitted at 70M"
        f" to 16B. {MEASURED.name}: {MEASURED.source}"
    )
    return Cells(
        title=f"What {found.training_flops:.3g} FLOPs of training buy", header=header, rows=rows, caption=caption
    )


def served_cells(found: Scaling) -> Cells | None:
    """The fewest FLOPs to train and to serve at the job's loss, a law a row; None without plan.served_tokens."""
    if found.served_tokens is None:
        return None
    header = ["law", "parameters", "tokens", "tokens per parameter", "FLOPs of training", "and serving", "of this job"]
    own = f"{found.job.flops(found.served_tokens):.3g}"
    rows = [
        [
            each.law.name,
            *_choice(each.served),
            f"{each.served.flops():.3g}",
            f"{each.served.flops(found.served_tokens):.3g}",
            own,
        ]
        for each in found.advice
        if each.served is not None
    ]
    return Cells(
        title=f"The loss of this job, and {short(found.served_tokens)} tokens served", header=header, rows=rows
    )


def _choice(choice: Choice) -> list[str]:
    ratio = choice.tokens / choice.parameters
    return [short(choice.parameters), short(choice.tokens), f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"]
