"""Write the computed tables of docs/planner.md, and docs/scaling.png: `python tools/planner_page.py`."""

from __future__ import annotations

from pathlib import Path

from nemotron4_model import ModelConfig
from nemotron4_train.machine import load_machine
from nemotron4_train.plan import inference, scaling
from nemotron4_train.plan.scaling_picture import scaling_figure
from nemotron4_train.reporting.timeline_plots import as_png

DOCS = Path(__file__).parents[1] / "docs"
MODEL, TOKENS = ModelConfig.preset("nemotron4_15b"), 8e12
SERVED_TOKENS = 20e12


def paper() -> scaling.Scaling:
    """Nemotron-4 15B on 8T tokens, and SERVED_TOKENS."""
    own = scaling.Choice(parameters=MODEL.num_parameters, tokens=TOKENS)
    return scaling.ask(own, TOKENS * MODEL.flops_per_token(MODEL.max_sequence_length), SERVED_TOKENS)


def tables() -> dict[str, str]:
    """Markdown by the name of the markers that it stands between."""
    served = scaling.served_cells(paper())
    assert served is not None, "SERVED_TOKENS are asked for"
    gpus = [
        inference.one_gpu(MODEL, load_machine(name), each) for name in inference.MACHINES for each in inference.FORMATS
    ]
    return {
        "scaling": scaling.cells(paper()).markdown(),
        "served": served.markdown(),
        "one gpu": inference.cells(gpus).markdown(),
    }


def filled(page: str) -> str:
    """The page with every table between its markers."""
    for name, table in tables().items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, after = page.split(begin)[0], page.split(end)[1]
        page = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return page


def main() -> None:
    """Rewrite the page and the picture."""
    page = DOCS / "planner.md"
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "scaling.png").write_bytes(as_png(scaling_figure(paper())))


if __name__ == "__main__":
    main()
