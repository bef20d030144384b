"""The options of a verb's command line, which may appear anywhere among its overrides.

Invariant: the result suits Hydra's parser: options before overrides, each with its value in one word.
"""

from __future__ import annotations

from collections.abc import Sequence

_FLAGS = {"-m": "--multirun", "-r": "--run", "-sc": "--shell-completion"}
_FLAGS |= {
    name: name for name in ("--multirun", "--run", "--shell-completion", "--resolve", "--hydra-help", "--version")
}
_VALUED = {"-c": "--cfg", "-p": "--package", "-cp": "--config-path", "-cn": "--config-name", "-cd": "--config-dir"}
_VALUED |= {name: name for name in (*_VALUED.values(), "--experimental-rerun")}
_INFO = ("-i", "--info")
_CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}


def split_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(options, overrides); raises ValueError for an option that does not exist or lacks its value."""
    options: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            overrides.append(word)
        elif word in _FLAGS:
            options.append(_FLAGS[word])
        elif name in _INFO:
            follows = bool(rest) and rest[0] in _CHOICES["--info"]
            options.append(_chosen("--info", value if equals else rest.pop(0) if follows else "all"))
        elif name in _VALUED:
            if not equals and not rest:
                raise ValueError(f"{name}: needs a value; write {name} VALUE")
            options.append(_chosen(_VALUED[name], value if equals else rest.pop(0)))
        else:
            key = name.lstrip("-") or "KEY"
            raise ValueError(f"{word}: no such option; a key is set with {key}={value or 'VALUE'}, -m sweeps, --cfg job"
                             " shows the job, --help lists the keys")  # fmt: skip
    return options, overrides


def _chosen(option: str, value: str) -> str:
    if value not in _CHOICES.get(option, (value,)):
        raise ValueError(f"{option} ({value}): no such choice; choose one of: {', '.join(_CHOICES[option])}")
    return f"{option}={value}"
