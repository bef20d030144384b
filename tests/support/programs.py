"""The sandbox that tests of programs share: the strongest that this machine allows. What they run harms nothing."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nemotron4_eval.code.sandbox import Sandbox


@functools.cache
def shared_sandbox() -> Sandbox:
    """Made once a process, as that takes a second."""
    from nemotron4_eval.code.sandbox import make_sandbox

    return make_sandbox(weakest=True)
