"""Prints the environment and the memory map of every process that it can look into."""

import glob

for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/maps"):
    try:
        with open(path, "rb") as file:
            print(file.read()[:4000])
    except OSError:
        pass
