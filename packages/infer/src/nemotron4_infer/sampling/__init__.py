"""How the next token is chosen: settings, distributions, penalties, stop strings, log-probabilities.

Importing this package does not import torch.
"""

from .config import SamplingConfig

__all__ = ["SamplingConfig"]
