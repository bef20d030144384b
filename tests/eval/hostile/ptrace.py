"""Attaches to processes and reads their memory. Prints how often that succeeded."""

import ctypes
import os

libc = ctypes.CDLL(None)
ATTACH, SEIZE = 16, 0x4206
done = 0
buffer = ctypes.create_string_buffer(8)
for process in (int(os.environ["VICTIM"]), os.getppid(), 1):
    for request in (ATTACH, SEIZE):
        done += libc.ptrace(request, process, None, None) == 0
    place = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    done += libc.process_vm_readv(process, place, 1, place, 1, 0) > 0
    try:
        with open(f"/proc/{process}/mem", "rb") as memory:
            done += memory.read(1) != b""
    except OSError:
        pass
print("reached", done)
