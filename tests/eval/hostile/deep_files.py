"""Writes 96 MB deeper than a path can be long, then rests for 5 s."""

import os
import time

written = 0
for _ in range(20):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
try:
    for number in range(4):
        file = os.open(f"{number}", os.O_RDWR | os.O_CREAT)
        for _ in range(24):
            written += os.write(file, bytes(2**20))
except OSError:
    pass
print("reached", written >> 20, flush=True)
time.sleep(5)
