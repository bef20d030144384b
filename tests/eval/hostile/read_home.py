"""Prints what it can read in homes and in places that others keep."""

import contextlib
import os
import pathlib

for place in ("/root", "/home", os.path.expanduser("~"), os.environ["OUTSIDE"], "/tmp", "/var/tmp", "/srv", "/mnt"):
    for directory, _, names in os.walk(place):
        for name in names[:20]:
            with contextlib.suppress(OSError):
                print(pathlib.Path(directory, name).read_bytes()[:200])
print(pathlib.Path(os.environ["OUTSIDE"], "secret").read_text())
