"""Starts 500 threads. Prints how many it got."""

import threading
import time

threading.stack_size(2**16)  # what it needs of memory is not the point
started = 0
try:
    for _ in range(500):
        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
        started += 1
except RuntimeError:
    pass
print("reached", started, flush=True)
time.sleep(1)
