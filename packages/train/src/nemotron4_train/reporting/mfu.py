"""Model FLOP/s utilisation: the model's FLOP/s at the measured speed, as a fraction of the devices' peak.

Convention, named wherever the figure is shown: MFU (full attention), that is `ModelConfig.flops_per_token` with
attention counted as a full square and recomputation not counted (arXiv 2402.16819, Table 2), over the dense bf16 peak.
Without a known peak there is no MFU. Peaks are those of conf/machine, or topology.peak_teraflops.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemotron4_model.config import ModelConfig

NAME = "MFU (full attention)"


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """Turns tokens/s into MFU for one model on one topology."""

    model: ModelConfig
    num_devices: int
    peak_teraflops: float | None
    """Dense bf16 peak of one device; None when it is not known."""

    def mfu(self, tokens_per_second: float, sequence_length: int) -> float | None:
        """A fraction, or None if the peak is not known. `tokens_per_second` is over all devices."""
        if self.peak_teraflops is None:
            return None
        flops_per_second = self.model.flops_per_token(sequence_length) * tokens_per_second
        return flops_per_second / (self.num_devices * self.peak_teraflops * 1e12)
