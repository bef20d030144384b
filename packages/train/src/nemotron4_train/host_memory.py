"""Memory of training on a processor.

glibc gives large blocks back to the system when they are freed, and gets the next step's anew: mapped page by page, and
every page cleared first. A training step on a processor frees and asks for the same memory each time, so the process
keeps it. Measured by tools/bench/model_step.py ("memory kept").
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Let this process, and those forked from it, keep what they free for as long as they live; False without glibc.

    Its resident memory stays at the highest use so far, and what falls between blocks of unlike size comes on top.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, value) == 1 for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)))
