"""Memory when training on a CPU.

glibc returns large blocks to the system when they are freed, and requests the next step's anew: mapped page by page,
with every page cleared first. A training step on a CPU frees and requests the same memory each time, so the process
keeps it. Measured by tools/bench/model_step.py ("memory kept").
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Make this process, and those forked from it, keep freed memory until they exit; False without glibc.

    Its resident memory stays at its peak so far, plus the fragmentation between blocks of different sizes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, value) == 1 for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)))
