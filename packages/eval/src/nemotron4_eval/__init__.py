"""Evaluation of a Nemotron-4 model directory: bits per byte of held-out text and LM Evaluation Harness tasks.

Names that need torch or lm-eval are imported on first use, so that `import nemotron4_eval` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemotron4_eval.eval_job import EvalJob
from nemotron4_eval.suites.config import SuiteConfig

if TYPE_CHECKING:
    from nemotron4_eval.evaluation import run_eval
    from nemotron4_eval.heldout.bits_per_byte import BitsPerByte, evaluate_bits_per_byte
    from nemotron4_eval.heldout.compressors import gzip_bits_per_byte, xz_bits_per_byte

_LAZY = {
    "BitsPerByte": "nemotron4_eval.heldout.bits_per_byte",
    "evaluate_bits_per_byte": "nemotron4_eval.heldout.bits_per_byte",
    "gzip_bits_per_byte": "nemotron4_eval.heldout.compressors",
    "run_eval": "nemotron4_eval.evaluation",
    "xz_bits_per_byte": "nemotron4_eval.heldout.compressors",
}

__all__ = [
    "BitsPerByte",
    "EvalJob",
    "SuiteConfig",
    "evaluate_bits_per_byte",
    "gzip_bits_per_byte",
    "run_eval",
    "xz_bits_per_byte",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
