"""Prints how many bytes it can read of files with passwords and keys."""

import glob

total = 0
for path in (
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/sudoers",
    *glob.glob("/etc/ssh/*key"),
    *glob.glob("/etc/ssl/private/*"),
):
    try:
        with open(path, "rb") as file:
            total += len(file.read())
    except OSError:
        pass
print("reached", total)
