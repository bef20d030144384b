"""Writes to places outside its directory. Prints how many writes succeeded."""

import os

done = 0
for place in ("/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/dev", "/var/tmp", os.environ["OUTSIDE"]):
    try:
        with open(f"{place}/written_by_a_model", "w") as file:
            done += 1
            os.unlink(file.name)
    except OSError:
        pass
secret = os.environ["OUTSIDE"] + "/secret"
for path in ("/usr/bin/env", "/etc/ld.so.cache", secret):
    try:
        with open(path, "r+b"):
            done += 1
    except OSError:
        pass
for attack in (os.unlink, lambda path: os.rename(path, path + "2"), lambda path: os.truncate(path, 0)):
    try:
        attack(secret)
        done += 1
    except OSError:
        pass
print("reached", done)
