"""What a step reaches of a machine's published rates: the planner's constants.

Invariant: the first three are what `python -m nemotron4_train.estimates.calibration` fits on the fitted rows of
published.yaml; the others are assumed, for the reasons given, because those rows cannot tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemotron4_common.rules import require
from nemotron4_train.job import Precision
from nemotron4_train.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Shares of rates, and what is lost beside them."""

    products: float = 0.6795
    """Of the bf16 peak (fp32: of its own), in large matrix products."""
    tensor_overlap: float = 0.6189
    """Share of tensor-parallel traffic behind computation, where both are cut into pieces."""
    per_doubling: float = 0.004243
    """Relative growth of a step for each doubling of nodes: waiting for the slowest, and congestion."""
    product_depth: float = 150
    """K0: the depth K of a product at which it reaches half of that; what starting and ending a tile costs."""
    memory: float = 0.87
    """Of memory bandwidth, in element-wise work: a copy of 2.9 TB/s on an H100."""
    data_overlap: float = 0.85
    """Share of traffic behind computation that costs nothing: a collective takes some 20 of 132 multiprocessors
    (arXiv 2412.19437 section 3.2.2) from what runs beside it."""
    fixed_seconds: float = 0.02
    """Of each step: launches, the host, the optimiser's synchronisation."""

    def bare_seconds(self, total: float, bare: float, window: float) -> float:
        """What `total` seconds of traffic add, of which `bare` has nothing beside it and the rest `window` seconds."""
        hidden = min(max(total - bare, 0.0), window)
        return total - self.data_overlap * hidden

    def memory_seconds(self, num_bytes: float, machine: Machine) -> float:
        """Of reading and writing so many bytes in all."""
        return num_bytes / (machine.memory_gigabytes_per_second * 1e9 * self.memory)


def peak_flops_per_second(machine: Machine, precision: Precision) -> float:
    """Of one device, dense; ValueError where the machine has no such format."""
    known = machine.peak_teraflops
    rule = f"{machine.name} has no peak for it; choose one of: {', '.join(known)}"
    require(precision.value in known, "precision.compute", precision.value, rule)
    return known[precision.value] * 1e12
