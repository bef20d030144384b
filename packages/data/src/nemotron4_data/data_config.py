"""How a job names the corpus that it reads: `data.dir` in every verb."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class DataDirConfig:
    """The prepared corpus that is read."""

    dir: str = "data/sample"
    """A directory that `nemotron4 prepare` or `nemotron4 data adopt` made."""
