"""The only code that uses Lightning: module, mesh strategy, data, callbacks and the fit of one worker.

Lightning imports torchmetrics, which imports what some of its metrics would use, where that is installed: 30% of the
CPU time, and 117 of the 438 MB, that a rank's imports take. We use none of its metrics, so it is imported here as if
those packages were not installed; code that uses metrics which need them imports torchmetrics before this package.
Invariant: nothing else of ours or Lightning's is imported in that state, and nothing learned in it is kept elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import DistributionFinder, PackageNotFoundError
from types import ModuleType

import torch  # noqa: F401  # which torchmetrics would import
from lightning_utilities.core.imports import module_available, package_available

_HIDDEN = ("matplotlib", "scipy", "transformers")


class _Hiding:
    """The first of `sys.meta_path`: what is hidden is neither found nor listed as installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name in _HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def find_distributions(self, context: DistributionFinder.Context) -> tuple[()]:
        if context.name in _HIDDEN:
            raise PackageNotFoundError(context.name)
        return ()


_hiding = _Hiding()
sys.meta_path.insert(0, _hiding)
try:
    # It may find a package that needs a hidden one, such as torch-fidelity; Lightning then imports it with all of them.
    with suppress(ImportError):
        import torchmetrics  # noqa: F401  # for Lightning to find
finally:
    sys.meta_path.remove(_hiding)
    for cached in (package_available, module_available):
        cached.cache_clear()
