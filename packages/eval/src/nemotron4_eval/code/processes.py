"""What a tree of processes uses: its members, their threads and their resident memory (/proc, see man proc).

Invariant: a process that ends while it is looked at counts as nothing; none of these functions raises for it.
"""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

BLOCK = 512  # bytes, of st_blocks
_PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """Processes below this one, parents before children."""
    found = children(pid)
    for process in found:  # grows while it is read
        found += children(process)
    return found


def children(pid: int) -> list[int]:
    """Processes that a thread of this process started, or that were given to it when their parent ended."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def num_threads(pids: list[int]) -> int:
    """Threads of these processes."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += len(os.listdir(f"/proc/{pid}/task"))
    return total


def num_open_files(pids: list[int], hidden: int) -> int:
    """Files, pipes and sockets that each of these processes has open; `hidden` for one that hides them."""
    return sum(hidden if names is None else len(names) for names in map(_open_files, pids))


def deleted_bytes(pids: list[int]) -> int:
    """Disk that deleted files take because these processes have them open; endless if one hides its files."""
    sizes: dict[int, int] = {}
    for pid in pids:
        names = _open_files(pid)
        if names is None:
            return sys.maxsize
        for name in names:
            with suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{name}")
                if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                    sizes[found.st_ino] = found.st_blocks * BLOCK
    return sum(sizes.values())


def _open_files(pid: int) -> list[str] | None:
    """Names of a process's descriptors; None if it hides them from us, which only works if we are not root."""
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return None if _resident(pid) else []  # one that has ended is closed, too
    except OSError:
        return []


def resident_bytes(pids: list[int], enough: int) -> int:
    """Memory that these processes hold; what they share counts once if the plain sum is above `enough`."""
    plain = sum(map(_resident, pids))
    return plain if plain <= enough else sum(map(_proportional, pids))


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """Resident memory in which a page shared by n processes counts 1/n to each."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)  # the process made itself unreadable
