"""The engine: many requests at once on one model.

`core.py` is synchronous, without clock, thread or I/O; `loop.py` runs it in a thread. Importing this package does not
import torch.
"""

from .config import EngineConfig

__all__ = ["EngineConfig"]
