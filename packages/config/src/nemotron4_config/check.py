"""`python -m nemotron4_config.check VERB ...`: compose and validate a job as `nemotron4` would, and do nothing with it.

Exit status and the line on stderr are those of `nemotron4`.
"""

from __future__ import annotations

import sys
from typing import Any


def nothing(job: Any) -> None:
    """Called instead of the function that runs the job."""


if __name__ == "__main__":
    from nemotron4_config.main import main

    sys.exit(main(run="nemotron4_config.check:nothing"))
