"""Runs programs that become root. Prints whether one did."""

import os
import subprocess

os.mkdir("mounted")
for command in ("su -c id", "sudo -n id", "pkexec id", "mount -t tmpfs none mounted"):
    try:
        run = subprocess.run(command.split(), capture_output=True, stdin=subprocess.DEVNULL, timeout=1)
        print("reached", int(run.returncode == 0), command, run.stdout, run.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        print(error)
