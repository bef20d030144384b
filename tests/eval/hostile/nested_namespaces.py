"""Makes namespaces of its own, where it would be root. Prints how often that succeeded."""

import ctypes
import os

libc = ctypes.CDLL(None)
NEW_USER, NEW_MOUNT, NEW_PID, NEW_NETWORK = 0x10000000, 0x00020000, 0x20000000, 0x40000000
done = 0
for flags in (NEW_USER, NEW_USER | NEW_MOUNT, NEW_PID, NEW_NETWORK, NEW_MOUNT):
    if not os.fork():
        os._exit(int(libc.unshare(flags) == 0 or libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0))
    done += os.waitstatus_to_exitcode(os.wait()[1])
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
child = libc.syscall(clone, NEW_USER | 17, 0, 0, 0, 0)
if not child:
    os._exit(0)
print("reached", done + (child > 0))
