"""Row-wise steps and deduplication between raw records and documents."""

from .config import CurationConfig
from .step import CurationReport, Step, early_steps, late_steps, run_steps

__all__ = ["CurationConfig", "CurationReport", "Step", "early_steps", "late_steps", "run_steps"]
