"""Ends its parent and a process outside, and signals all that it may with SIGURG, which ends only those that mind it.

Prints whether it ended the one outside.
"""

import os
import signal

victim, parent = int(os.environ["VICTIM"]), os.getppid()
done = 0
for process, number in ((-1, signal.SIGURG), (victim, signal.SIGKILL), (parent, signal.SIGKILL)):
    try:
        os.kill(process, number)
        done += process == victim
    except OSError:
        pass
print("reached", done)
