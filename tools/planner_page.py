"""Write every computed table of docs/planner.md, and its pictures: `python tools/planner_page.py`.

tests/train/plan/test_page.py holds the page to the program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nemotron4_train.job import Precision
from nemotron4_train.machine import load_machine
from nemotron4_train.plan import inference, scaling, validation
from nemotron4_train.plan.cells import Cells
from nemotron4_train.plan.estimate import estimate
from nemotron4_train.plan.pictures import plan_picture
from nemotron4_train.plan.plan_job import PlanConfig, PlanJob
from nemotron4_train.plan.scaling_picture import scaling_figure
from nemotron4_train.plan.search import Search, search
from nemotron4_train.reporting.timeline_plots import as_png

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOKENS, SERVED_TOKENS = 8e12, 20e12
NVIDIA_BATCHES = {64: 256, 2_048: 8_192}
"""By number of GPUs: four sequences for each."""
TENSOR_SIZES = (1, 2, 4, 8)


def tables(compose: Callable[..., PlanJob]) -> dict[str, str]:
    """Markdown by the name of the marks that it stands between; `compose` makes jobs of a verb and overrides."""
    paper, campaign = (compose("plan", f"experiment={name}") for name in ("nemotron4_15b", "nemotron4_15b_campaign"))
    served = scaling.served_cells(of_paper(paper))
    assert served is not None, "SERVED_TOKENS are asked for"
    machines = [load_machine(name) for name in inference.MACHINES]
    gpus = [inference.one_gpu(paper.model, machine, each) for machine in machines for each in inference.FORMATS]
    return {
        "summary of steps": validation.summary_cells().markdown(),
        "published steps": validation.as_markdown(),
        "days": _days(campaign),
        "search": _search(paper, campaign).markdown(),
        "scaling": scaling.cells(of_paper(paper)).markdown(),
        "served": served.markdown(),
        "one gpu": inference.cells(gpus).markdown(),
    }


def of_paper(paper: PlanJob) -> scaling.Scaling:
    """Nemotron-4 15B on 8T tokens, and SERVED_TOKENS."""
    own, model = scaling.Choice(parameters=paper.model.num_parameters, tokens=TOKENS), paper.model
    return scaling.ask(own, TOKENS * model.flops_per_token(model.max_sequence_length), SERVED_TOKENS)


def _days(campaign: PlanJob) -> str:
    found = estimate(campaign).comparisons
    published = sum(each.published.days or 0.0 for each in found)
    theirs, ours = (sum(each.days(getattr(each, name)) or 0.0 for each in found) for name in ("theirs", "ours"))
    return (
        f"The paper's 8T tokens took {published:.1f} days. The same layouts are predicted to take {theirs:.1f} days"
        f" run by Megatron-LM,\nand {ours:.1f} run by this project."
    )


def _search(paper: PlanJob, campaign: PlanJob) -> Cells:
    asked = [
        replace(paper, plan=PlanConfig(search=True, gpus=gpus, machine="h100_sxm", global_batch_size=batch))
        for gpus, batch in NVIDIA_BATCHES.items()
    ]
    found = [search(job) for job in (*asked, replace(campaign, plan=PlanConfig(search=True, machine="h100_sxm")))]
    header = ("GPUs", "sequences", *(f"tensor {size}" for size in TENSOR_SIZES), "float8")
    return Cells(title="", header=header, rows=[_search_row(each) for each in found])


def _search_row(found: Search) -> list[str]:
    """The fastest layout in bf16 of each tensor size, and the fastest with float8."""
    best = found.best(precision=Precision.bf16)
    assert best is not None, "one fits"
    row = [f"{found.question.num_devices:,}", f"{next(iter(found.question.steps))[0]:,}"]
    for size in TENSOR_SIZES:
        one = found.best(size, Precision.bf16)
        more = "" if one is None or one is best else f", +{one.seconds / best.seconds - 1:.0%}"
        row.append("does not divide" if one is None else f"{one.step.total_seconds:.3g} s{more}")
    float8 = found.best(precision=Precision.fp8)
    return [*row, "" if float8 is None else f"{float8.step.total_seconds:.3g} s, tensor {float8.topology.tensor}"]


def filled(page: str, compose: Callable[..., PlanJob]) -> str:
    """The page with everything between its marks as the program has it now."""
    for name, text in tables(compose).items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, after = page.split(begin)[0], page.split(end)[1]
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page


def main() -> None:
    """Rewrite the page and the pictures."""
    sys.path.append(str(ROOT / "tests" / "support"))
    from composed import composed

    page = DOCS / "planner.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), composed), encoding="utf-8")
    campaign = composed("plan", "experiment=nemotron4_15b_campaign")
    figures = {
        "planner.png": plan_picture(campaign, campaign.timeline(), estimate(campaign)),
        "scaling.png": scaling_figure(of_paper(campaign)),
    }
    for name, figure in figures.items():
        (DOCS / name).write_bytes(as_png(figure))


if __name__ == "__main__":
    main()
