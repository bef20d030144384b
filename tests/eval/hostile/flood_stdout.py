"""Prints without end, up to 1 GB."""

import os

for _ in range(1024):
    os.write(1, b"flood\n" * 2**17)
