"""Stops itself, so that it never ends; a child ends it after 20 s."""

import os
import signal
import time

parent = os.getpid()
if not os.fork():
    time.sleep(20)
    os.kill(parent, signal.SIGKILL)
    os._exit(0)
os.kill(parent, signal.SIGSTOP)
