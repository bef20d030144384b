"""Writes through links that lead out of its directory. Prints how many writes succeeded."""

import os

done = 0
for number, target in enumerate(("/etc", "/usr", os.environ["OUTSIDE"], "/proc/1/root/etc", "/proc/self/root/usr")):
    os.symlink(target, f"link{number}")
    try:
        with open(f"link{number}/written_by_a_model", "w") as file:
            done += 1
            os.unlink(file.name)
    except OSError:
        pass
try:
    os.link(os.environ["OUTSIDE"] + "/secret", "hard_link")
    done += 1
except OSError:
    pass
print("reached", done)
