"""Forks without end: each process forks, up to 512 of them and for 3 s. Prints a dot for each."""

import os
import time

for _ in range(9):
    try:
        os.fork()
    except OSError:
        break
os.write(1, b".")
time.sleep(3)
