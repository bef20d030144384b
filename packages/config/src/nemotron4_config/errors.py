"""One line for the user: which key or group, what was given, the rule, and the way out.

Hydra and OmegaConf explain themselves over several lines that suit a developer; this turns the kinds a user can
cause into one. Anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import re

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

USER_ERRORS = (ValueError, OSError, HydraException, OmegaConfBaseException)

_WAYS_OUT = {
    errno.ENOSPC: "make room (`df` shows which disk is full), then run the same command again",
    errno.EDQUOT: "make room in the quota, then run the same command again",
    errno.EROFS: "choose a place that can be written",
    errno.EINVAL: "its file system cannot do this: choose a place on another one",
    errno.ENOLCK: "its file system has no locks: mount it with locks, or choose a place on another one",
    errno.EIO: "the disk or network failed: run the same command again when it is back",
}
_NOT_A_KEY = re.compile(r"Could not override '([^']+)'")
_NO_OPTION = re.compile(r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+(.*)", re.DOTALL)
_NO_GROUP = re.compile(r"Could not override '([^']+)'\. No match in the defaults list")


def explain(error: BaseException) -> str:
    """The one-line text of a user's mistake."""
    text = str(error)
    if match := _NO_OPTION.search(text):
        option, group, available = match.groups()
        if option == "hydra/sweeper/optuna":
            return "hydra/sweeper=optuna: not installed; pip install 'nemotron4-config[optuna]'"
        choices = ", ".join(available.split("Config search path")[0].split())
        return f"{group}={option.removeprefix(group + '/')}: no such option; choose one of: {choices}"
    if match := _NO_GROUP.search(text):
        return f"{match[1]}: not a config group of this verb; --help lists the groups and keys"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.msg:
        if match := _NOT_A_KEY.search(text):
            return f"{match[1]}: unknown key; --help lists the keys"
        return _explain_value(cause)
    if match := _NOT_A_KEY.search(text):
        return f"{match[1]}: unknown key; --help lists the keys"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return _explain_value(error)
    if isinstance(error, OSError) and error.strerror:
        return _explain_system(error)
    return " ".join(text.split()) or type(error).__name__


def _explain_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    way_out = _WAYS_OUT.get(error.errno or 0)
    return " ".join(f"{where}{error.strerror}{f': {way_out}' if way_out else ''}".split())


def _explain_value(error: OmegaConfBaseException) -> str:
    message = (error.msg or "").split("\n")[0]
    if "missing mandatory value" in message.lower():
        return f"{error.full_key}: required; give it as {error.full_key}=VALUE"
    if "not in" in message and error.key is not None:
        return f"{error.full_key}: unknown key; --help lists the keys"
    return f"{error.full_key}: {message}"
