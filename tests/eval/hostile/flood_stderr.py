"""Writes to stderr without end and without a newline, up to 1 GB."""

import os

for _ in range(1024):
    os.write(2, b"x" * 2**20)
