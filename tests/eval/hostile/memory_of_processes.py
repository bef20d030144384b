"""Takes 960 MiB in 20 processes that are each within their limit."""

import os
import time

for _ in range(19):
    if not os.fork():
        break
held = b"x" * (48 * 2**20)
time.sleep(2)
