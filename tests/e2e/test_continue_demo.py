"""The demo's export, trained on by experiment=continue_demo at full length: minutes."""

import csv

import pytest
from verb import nemotron4


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_the_continued_demo_ends_below_its_start_on_held_out_text(tmp_path):
    nemotron4("prepare", cwd=tmp_path)
    ends = {}
    for name in ("demo", "continue_demo"):
        nemotron4("train", f"experiment={name}", cwd=tmp_path)
        nemotron4("export", f"run=runs/{name}/latest", cwd=tmp_path)
        with open(tmp_path / "runs" / name / "latest" / "validation.csv", newline="") as file:
            ends[name] = list(csv.DictReader(file))[-1]
    for domain in ("overall", "english", "code", "multilingual"):
        assert float(ends["continue_demo"][domain]) < float(ends["demo"][domain]), domain
