"""Curation: the row-wise steps that repair, judge and scrub documents, and the counts of what they did."""

from .config import CurationConfig
from .step import CurationReport, Step, early_steps, late_steps, run_steps

__all__ = ["CurationConfig", "CurationReport", "Step", "early_steps", "late_steps", "run_steps"]
