"""Counts where training waits for the device or for other ranks: reads of tensors' values, and collectives."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READS = ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy")


class Reads(TorchFunctionMode):
    """Counts the calls that copy a tensor's values to the host, in this thread."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__ in _READS:
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


class Collectives(TorchDispatchMode):
    """Counts the collectives that this thread calls."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            self.found.append(function.name())
        return function(*args, **(kwargs or {}))
