"""Errors that a user can cause, in one line: which key or group, what was given, the rule, and the way out.

Hydra's and OmegaConf's messages run over several lines and address developers; this condenses those that a user can
cause. Any other error is a bug in this program and keeps its traceback.
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
    errno.EROFS: "choose a writable place",
    errno.EINVAL: "its file system cannot do this: choose a place on another one",
    errno.ENOLCK: "its file system has no locks: mount it with locks, or choose a place on another one",
    errno.EIO: "the disk or network failed: run the same command again when it is back",
}
_NOT_A_KEY = re.compile(r"Could not override '([^']+)'")
_NO_OPTION = re.compile(r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+(.*)", re.DOTALL)
_MESSAGES = (
    (re.compile(r"Cannot find primary config '([^']+)'"), "--config-name ({}): no such file in conf/ or --config-dir"),
    (re.compile(r"Additional config directory '([^']+)' not found"), "--config-dir ({}): no such directory"),
    (re.compile(r"Primary config directory not found.*'([^']+)'"), "--config-path ({}): no such directory"),
    (re.compile(r"Could not delete from config. '([^']+)' does not exist"), "~{}: unknown key; --help lists the keys"),
    (re.compile(r"sweep type : (\w+)"), "{}: only hydra/sweeper=optuna accepts one; list the values, as in KEY=1,2"),
)
"""Hydra's messages, and ours that replace them."""
_RULES = (
    (re.compile(r"could not be converted to Integer"), "must be a whole number"),
    (re.compile(r"could not be converted to Float"), "must be a number"),
    (re.compile(r"is not a valid bool"), "must be true or false"),
    (re.compile(r"expected one of \[(.*)\]"), "must be one of: {}"),
    (re.compile(r"is not Optional"), "must have a value"),
    (re.compile(r"is not a ListConfig"), "must be a list, as in [A, B]"),
    (
        re.compile(r"(?:Cannot assign|is not a subclass of|Cannot merge|is incompatible)"),
        "must be of the type that --help shows",
    ),
    (re.compile(r"does not support deletion"), "cannot be removed; give it another value"),
)
_IN_FILE = re.compile(r"In '([^']+)': \w+ raised while composing config")
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
    for pattern, message in _MESSAGES:
        if match := pattern.search(text):
            return message.format(match[1])
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException) and (match := _IN_FILE.match(text)):
        return f"{match[1]}.yaml: {explain(cause)}"
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
    for pattern, rule in _RULES:
        if match := pattern.search(message):
            value = "null" if "Optional" in message else "" if error.value is None else repr(error.value)
            shown = f" ({value.strip(chr(39)) or value})" if value else ""
            return f"{error.full_key}{shown}: {rule.format(*match.groups())}"
    return f"{error.full_key}: {message}"
