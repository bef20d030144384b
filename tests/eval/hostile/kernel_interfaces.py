"""Asks the kernel for rings, programs, keys, counters and memory that belongs to no process. Prints the successes."""

import ctypes
import os

libc = ctypes.CDLL(None)
column = ["x86_64", "aarch64"].index(os.uname().machine)
space = ctypes.create_string_buffer(256)
CALLS = {
    "io_uring_setup": ((425, 425), (4, space)),
    "bpf": ((321, 280), (0, space, 72)),
    "keyctl": ((250, 219), (0, -3, 1)),
    "add_key": ((248, 217), (b"user", b"name", b"x", 1, -2)),
    "perf_event_open": ((298, 241), (space, 0, -1, -1, 0)),
    "userfaultfd": ((323, 282), (1,)),
    "memfd_create": ((319, 279), (b"name", 0)),
    "shmget": ((29, 194), (0, 4096, 0o1600)),
    "msgget": ((68, 186), (0, 0o1600)),
    "open_tree": ((428, 428), (-100, b"/", 1)),
    "fsopen": ((430, 430), (b"tmpfs", 0)),
}
reached = [name for name, (numbers, arguments) in CALLS.items() if libc.syscall(numbers[column], *arguments) >= 0]
print(*reached)
print("reached", len(reached))
