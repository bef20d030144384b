"""Prints the command of every process that it can see."""

import glob

for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        with open(path, "rb") as file:
            print(file.read()[:400])
    except OSError:
        pass
