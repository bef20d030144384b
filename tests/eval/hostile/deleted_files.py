"""Hides its files, writes 96 MB to some that it deletes at once but keeps open, then rests for 5 s."""

import ctypes
import os
import time

ctypes.CDLL(None).prctl(4, 0)
written = 0
try:
    for number in range(4):
        file = os.open(f"{number}", os.O_RDWR | os.O_CREAT)
        os.unlink(f"{number}")
        for _ in range(24):
            written += os.write(file, bytes(2**20))
except OSError:
    pass
print("reached", written >> 20, flush=True)
time.sleep(5)
