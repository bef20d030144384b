"""pass@k: the chance that one of k programs passes, estimated without bias from n of them.

Source: arXiv 2107.03374, section 2.1: 1 - C(n - c, k) / C(n, k) of each problem, averaged over problems.
"""

import math

from nemotron4_common.rules import require


def pass_at_k(n: int, c: int, k: int) -> float:
    """The estimate for a problem, c of whose n programs passed; ValueError if n < k, which tells nothing of k."""
    require(0 <= c <= n, "passed", c, f"of {n} programs")
    require(1 <= k <= n, f"pass@{k}", k, f"cannot be estimated from {n} programs a problem; sample {k} or more")
    # A product of ratios stays finite where binomials of hundreds would not.
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))
