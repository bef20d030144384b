"""Reading the tensors of a checkpoint: the wanted rows, each straight to where it belongs.

torch's own reader makes each stored tensor whole, in memory that is new each time, by unpickling what torch.save wrote.
Here the same bytes are found, and only their place, type and shape are unpickled, and nothing can run; tensors that
this does not understand are left to torch. Invariant: the files have been checked against their digests.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

_DTYPES = {"FloatStorage": torch.float32, "BFloat16Storage": torch.bfloat16, "ByteStorage": torch.uint8}


class TensorReader(FileSystemReader):
    """Reads the index once, however often tensors are read: that of a large model takes seconds."""

    _metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's index."""
        if self._metadata is None:
            self._metadata = super().read_metadata(*args, **kwargs)
        return self._metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the tensors of the plan. Raises ValueError when a file ends before its tensors do."""
        by_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            by_file[self.storage_data[item.storage_index].relative_path].append(item)
        others = []
        for name, items in by_file.items():
            with (Path(self.path) / name).open("rb") as file:
                for item in items:
                    info = self.storage_data[item.storage_index]
                    stored = _find_stored(self._slice_file(file, info), info.offset)
                    if stored is None:
                        others.append(item)
                        continue
                    target = planner.resolve_tensor(item).detach()
                    stored.read(file, item.storage_offsets, target)
                    planner.commit_tensor(item, target)
        return super().read_data(replace(plan, items=others), planner)


@dataclass(frozen=True)
class _Stored:
    """A contiguous tensor in a file."""

    at: int
    """The offset of its first byte."""
    dtype: torch.dtype
    size: tuple[int, ...]

    def read(self, file: io.BufferedReader, offsets: Sequence[int], target: Tensor) -> None:
        """Fill `target` with the part that begins at `offsets`. Raises ValueError when the file ends before it does."""
        lengths = tuple(target.shape)
        rows = (*lengths[:1], *self.size[1:])
        is_place = target.dtype == self.dtype and target.is_cpu and target.is_contiguous() and rows == lengths
        part = target if is_place else torch.empty(rows, dtype=self.dtype)
        row_bytes = math.prod(self.size[1:]) * self.dtype.itemsize
        file.seek(self.at + (offsets[0] if offsets else 0) * row_bytes)
        content = part.reshape(-1).view(torch.uint8).numpy()
        # Before Python 3.12 no type says that an array is a buffer.
        if file.readinto(content) != content.nbytes:  # type: ignore[arg-type]
            raise ValueError("a file ends before its tensors do")
        if not is_place:
            starts = (0, *offsets[1:])[: part.ndim]
            target.copy_(part[tuple(slice(at, at + length) for at, length in zip(starts, lengths, strict=True))])


def _find_stored(item: IO[bytes], offset: int) -> _Stored | None:
    """The tensor that torch.save wrote at `offset`; None unless it is contiguous and of a type in _DTYPES."""
    archive = torch._C.PyTorchFileReader(item)
    try:
        dtype, key, first, size, strides = _Unpickler(io.BytesIO(archive.get_record("data.pkl"))).load()
    except pickle.UnpicklingError:
        return None
    if first != 0 or strides != torch.empty(size, device="meta").stride():
        return None
    # torch leaves this method out of its stubs.
    return _Stored(offset + archive.get_record_offset(f"data/{key}"), dtype, size)  # type: ignore[attr-defined]


class _Unpickler(pickle.Unpickler):
    """Reads where a tensor's bytes are and what they mean, and makes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, first, size, strides, *_: (*storage, first, size, strides)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, saved_id: Any) -> tuple[torch.dtype, str]:
        _, dtype, key, *_ = saved_id
        return dtype, key
