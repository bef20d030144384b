"""`python -m nemotron4_train.slurm.attempt`, as batch scripts of earlier versions call it: now in launching/slurm/."""

import sys

from nemotron4_train.launching.slurm.attempt import main

if __name__ == "__main__":
    sys.exit(main())
