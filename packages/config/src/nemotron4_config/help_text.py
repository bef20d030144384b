"""`nemotron4 VERB --help [GROUP or KEY]...`: what the verb does, its config groups and their options, and its keys.

Hydra's own help searches its path again for each group and takes a second longer. The groups shown here are those of
conf/, without what --config-dir adds; descriptions are docstrings of fields and the leading comments of YAML files.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict

import nemotron4_config.conf
from nemotron4_config.command import Command, load_attribute
from nemotron4_config.keys import Key, as_typed, first_sentence, job_keys, keys_below, kinds_along, without_none

USAGE = """\
usage: nemotron4 {verb} [KEY=VALUE ...] [GROUP=OPTION ...] [-m] [--cfg job] [--help [GROUP or KEY ...]]

KEY=VALUE sets a key; GROUP=OPTION uses the settings of conf/GROUP/OPTION.yaml; -m runs one job for each of A,B,C.
--help GROUP or --help KEY shows more; --cfg job prints the composed job, --info defaults the files it is composed from.
An unknown key is an error.
"""
CONF = Path(str(nemotron4_config.conf.__file__)).parent
_COLUMN = 44
"""Column where descriptions begin."""


@dataclass(frozen=True)
class VerbHelp:
    """What the help shows of a verb whose job is composed with some overrides."""

    job_type: type[Any]
    groups: dict[str, str | None]
    """The config groups that the verb uses, and the option chosen in each."""
    values: dict[str, Any]
    """The composed job as nested mappings."""

    @classmethod
    def of(cls, verb: str, job_type: type[Any], overrides: Sequence[str]) -> VerbHelp:
        """Compose the verb's job; its schema must be in Hydra's store. Raises Hydra's errors for a wrong override."""
        with initialize_config_module("nemotron4_config.conf", version_base="1.3"):
            config = compose(verb, list(overrides), return_hydra_config=True)
        known = config_groups()
        groups = {name: choice for name, choice in sorted(config.hydra.runtime.choices.items()) if name in known}
        with open_dict(config):
            del config["hydra"]
        values = OmegaConf.to_container(config, enum_to_str=True)
        assert isinstance(values, dict)
        return cls(job_type, groups, {str(key): value for key, value in values.items()})

    def composed_keys(self) -> list[Key]:
        """The job's keys with their composed values."""
        return [self.with_value(key) for key in job_keys(self.job_type)]

    def with_value(self, key: Key) -> Key:
        """The key with its composed value instead of its default."""
        value: Any = self.values
        for name in key.name.split("."):
            if not isinstance(value, dict) or name not in value:
                return key
            value = value[name]
        if isinstance(value, dict) and key.type.startswith("keys"):
            return replace(key, default=", ".join(value) if "by name" in key.type else "")
        return replace(key, default=None if value == "???" else as_typed(value))


def help_text(verb: str, command: Command, overrides: Sequence[str], topics: Sequence[str]) -> str:
    """The help of a verb, or of some of its groups and keys; raises ValueError for one that it does not have."""
    verb_help = VerbHelp.of(verb, load_attribute(command.job), overrides)
    if topics:
        return "\n".join(_topic(topic, verb_help) for topic in topics)
    lines = [f"{command.summary}.", "", *comment(CONF / f"{verb}.yaml"), "", USAGE.format(verb=verb.replace("_", " "))]
    if verb_help.groups:
        lines.append("Groups and their options:")
    for group, choice in verb_help.groups.items():
        lines += _entry(group if choice is None else f"{group}={choice}", ", ".join(config_groups()[group]))
    lines += ["", "Keys and their values:"] if verb_help.groups else ["Keys and their values:"]
    above = ""
    for key in verb_help.composed_keys():
        is_new_part = "." not in key.name and ("." in above or key.type.startswith("keys"))
        lines += [""] if is_new_part and above else []
        lines += _key_entry(key, key.type_and_duty, key.sentence)
        above = key.name
    return "\n".join(lines) + "\n"


def _topic(topic: str, verb_help: VerbHelp) -> str:
    """The help of a group or a key."""
    parts, lines = topic.split("."), []
    hints = get_type_hints(verb_help.job_type)
    if parts[0] not in hints and topic not in verb_help.groups:
        known = ", ".join(sorted({*hints, *verb_help.groups}))
        raise ValueError(f"--help ({topic}): not a group or key of this verb; choose one of: {known}")
    if topic in verb_help.groups:
        lines += [f"Options, as in {topic}={config_groups()[topic][0]}:"]
        for option in config_groups()[topic]:
            lines += _entry(option, first_sentence(" ".join(comment(CONF / topic / f"{option}.yaml"))))
        lines.append("")
    if parts[0] in hints:
        lines += ["Keys and their values:"]
        for key in keys_of(topic, verb_help.job_type):
            now = verb_help.with_value(key)
            differs = key.default and now.default != key.default
            words = f"{key.type}, {key.default} by default" if differs else key.type_and_duty
            lines += _key_entry(now, words, key.text)
    return "\n".join(lines) + "\n"


def keys_of(name: str, job_type: type[Any]) -> list[Key]:
    """The key of a job with this dotted name, and those below it; raises ValueError if there is no such key."""
    parts = name.split(".")
    *_, whole, kind = kinds_along(job_type, parts, "")
    above = ".".join(parts[:-1])
    own = [key for key in keys_below(whole, above, {}) if key.name == name]
    return own + keys_below(kind, name, {without_none(hint): n for n, hint in get_type_hints(job_type).items()})


def config_groups() -> dict[str, list[str]]:
    """The groups of conf/ and their options."""
    folders = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "__pycache__"))
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def comment(path: Path) -> list[str]:
    """The lines of the comment that a YAML file begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines += [] if line.startswith("# @package") else [line[1:].removeprefix(" ")]
    return lines


def _key_entry(key: Key, words: str, text: str) -> Iterable[str]:
    left = f"{key.name}={key.default}" if key.default else key.name
    return _entry(left, text if words == "keys" else f"({words}) {text}")


def _entry(left: str, text: str) -> Iterable[str]:
    """A line with its description to the right, or below if the line is long."""
    width = max(80, min(120, shutil.get_terminal_size((120, 24)).columns))
    begin = f"  {left}"
    if len(begin) + 2 <= _COLUMN:
        begin = begin.ljust(_COLUMN)
    else:
        yield begin
        begin = " " * _COLUMN
    yield from textwrap.wrap(text, width, initial_indent=begin, subsequent_indent=" " * _COLUMN) or [begin.rstrip()]
