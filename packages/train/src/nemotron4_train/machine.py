"""Machines as data: what one device of a kind computes, holds and moves. Files of conf/machine, and users' own.

Invariant: rates are peaks in one direction, without sparsity; what is reached of them is for estimates/ to say. Memory
is what a program finds there, which a data sheet rounds: its 80 GB are 80 GiB less what the driver keeps.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nemotron4_common.rules import require

_MACHINES = Path(__file__).parent / "machines"
_OWN = ".yaml"
_FORMATS = ("fp32", "bf16", "fp8")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One kind of device, and the node it is in."""

    name: str
    cuda_names: tuple[str, ...]
    """What CUDA calls a whole device of this kind; a slice of one has another name."""
    peak_teraflops: dict[str, float]
    """Dense peak by number format: fp32, bf16, and fp8 where it has that."""
    memory_gigabytes: float
    """Memory of one device that programs can allocate, in 1e9 bytes."""
    memory_gigabytes_per_second: float
    devices_per_node: int
    node_link_gigabytes_per_second: float
    """One device to the others of its node."""
    network_gigabytes_per_second: float
    """One device's share of its node's network adapters."""
    multiprocessors: int
    """Units that the tiles of a matrix product are spread over."""

    @property
    def memory_bytes(self) -> int:
        """Memory of one device that programs can allocate."""
        return round(self.memory_gigabytes * 1e9)


def machine_names() -> list[str]:
    """The files of conf/machine, sorted."""
    return sorted(path.stem for path in _MACHINES.glob("*.yaml"))


def check_machine_name(name: str, key: str = "topology.machine") -> None:
    """Raise ValueError, for the dotted `key`, unless conf/machine has this file or it is the path of a YAML file.

    A path is not opened: a run directory has to stay readable where the file is not.
    """
    known = machine_names()
    if name.endswith(_OWN) or name in known:  # first: plan.search makes thousands of topologies
        return
    rule = f"is no file of conf/machine; {_nearest(name, known)}, or give the path of a file like them, *.yaml"
    raise ValueError(f"{key} ({name}): {rule}")


@cache
def load_machine(name: str, key: str = "topology.machine") -> Machine:
    """A machine by the name of a file of conf/machine, or by the path of a file of the same keys, *.yaml.

    Raises ValueError of one line, for the dotted `key`, when there is no such file or one of its figures is not right.
    """
    check_machine_name(name, key)
    is_own = name.endswith(_OWN)
    try:
        content = yaml.safe_load((Path(name) if is_own else _MACHINES / f"{name}.yaml").read_text(encoding="utf-8"))
    except OSError as error:
        known = _nearest(Path(name).stem, machine_names())
        raise ValueError(f"{key} ({name}): cannot be read ({error.strerror}); of conf/machine, {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        shown = " ".join(str(error).split())
        raise ValueError(f"{key} ({name}): is not YAML ({shown}); see the files of conf/machine") from error
    _check(content, name, key)
    figures = {found: float(value) for found, value in content.items() if found.endswith(("gigabytes", "_per_second"))}
    whole = {found: content[found] for found in ("devices_per_node", "multiprocessors")}
    return Machine(
        name=Path(name).stem if is_own else name,
        cuda_names=tuple(content["cuda_names"]),
        peak_teraflops={number_format: float(peak) for number_format, peak in content["peak_teraflops"].items()},
        **figures | whole,
    )


def machine_of(cuda_name: str) -> Machine | None:
    """The machine of conf/machine whose whole device CUDA calls this; None for a slice of one, and for others."""
    machines = (load_machine(name) for name in machine_names())
    return next((machine for machine in machines if cuda_name in machine.cuda_names), None)


def machine_in_use(name: str | None, cuda_name: str | None) -> Machine | None:
    """The machine that a job really runs on: the one it names, unless the name of its GPU is that of another.

    Both may be unknown; None then, and for a GPU that is not of the named machine nor of conf/machine. Raises
    ValueError as `load_machine` does.
    """
    named = None if name is None else load_machine(name)
    if cuda_name is None or (named is not None and cuda_name in named.cuda_names):
        return named
    return named if named is not None and not named.cuda_names else machine_of(cuda_name)


def _check(content: Any, name: str, key: str) -> None:
    """Raise ValueError unless the content of a machine's file has every key once, and each its kind of value."""

    def rule(holds: bool, text: str) -> None:
        require(holds, key, name, text)

    keys = [field.name for field in fields(Machine) if field.name != "name"]
    rule(isinstance(content, dict), "is not a mapping; see the files of conf/machine")
    for found in content:
        rule(found in keys, f"{found} is no key of a machine; {_nearest(str(found), keys)}")
    missing = [expected for expected in keys if expected not in content]
    rule(not missing, f"lacks {', '.join(missing)}; every file of conf/machine has them")
    names, peaks = content["cuda_names"], content["peak_teraflops"]
    is_list = isinstance(names, list) and all(isinstance(each, str) for each in names)
    rule(is_list, f"cuda_names is {names!r}; must be a list of names, [] if CUDA has none")
    is_peaks = isinstance(peaks, dict) and {"fp32", "bf16"} <= set(peaks) <= set(_FORMATS)
    rule(is_peaks, f"peak_teraflops is {peaks!r}; must have a figure for fp32 and bf16, and may have one for fp8")
    figures = {each: content[each] for each in keys if each not in ("cuda_names", "peak_teraflops")}
    for found, value in (figures | {f"peak_teraflops.{each}": peak for each, peak in peaks.items()}).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        rule(is_number and value > 0, f"{found} is {value!r}; must be a number above 0")
        is_count = found in ("devices_per_node", "multiprocessors")
        rule(isinstance(value, int) or not is_count, f"{found} is {value!r}; must be a whole number")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.3) or known
    return f"nearest: {', '.join(near)}"
