"""Leaves a process of another session behind, which has closed all files and lives for 20 s."""

import os
import time

if not os.fork():
    os.setsid()
    if not os.fork():
        os.closerange(0, 256)
        time.sleep(20)
    os._exit(0)
os.wait()
