"""`python -m nemotron4_config.reference [--check] [DIRECTORY]`: a Markdown page for each verb and each config group.

DIRECTORY defaults to docs/reference. The pages come from what `--help` shows: docstrings, dataclasses and conf/.
With --check nothing is written, and the exit status is 1 if any file is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from hydra.core.config_store import ConfigStore

from nemotron4_config.command import Command, command_loaders, load_attribute
from nemotron4_config.help_text import CONF, VerbHelp, comment, config_groups, keys_of
from nemotron4_config.keys import Key

_MADE_BY = "<!-- Written by `python -m nemotron4_config.reference`: change docstrings or conf/, then run it again. -->"
_INDEX = """\
`nemotron4 VERB KEY=VALUE ... GROUP=OPTION ...`: a key sets one value, an option of a config group sets several.
`nemotron4 VERB --help` shows the same, and `nemotron4 VERB --help GROUP` one group alone."""


def pages() -> dict[str, str]:
    """The text of every page by file name, from the installed packages and their conf/."""
    commands = {verb: load() for verb, load in command_loaders().items()}
    helps = {verb: verb_help(verb, command) for verb, command in commands.items()}
    users = {group: [verb for verb in helps if group in helps[verb].groups] for group in config_groups()}
    users = {group: verbs for group, verbs in users.items() if verbs}
    texts = {
        "index": _index(commands, users),
        **{verb: _verb_page(verb, command, helps[verb]) for verb, command in commands.items()},
        **{group: _group_page(group, verbs, helps[verbs[-1]].job_type) for group, verbs in users.items()},
    }
    return {f"{name}.md": "\n\n".join([_MADE_BY, *filter(None, blocks)]) + "\n" for name, blocks in texts.items()}


def verb_help(verb: str, command: Command) -> VerbHelp:
    """The verb's help as shipped: without what this machine's conf/local/ sets."""
    job_type = load_attribute(command.job)
    ConfigStore.instance().store(name="job", node=job_type)
    found = VerbHelp.of(verb, job_type, [])
    return VerbHelp.of(verb, job_type, ["~local"]) if "local" in found.groups else found


def _index(commands: dict[str, Command], users: dict[str, list[str]]) -> list[str]:
    verbs = ([_link(verb), _plain(command.summary)] for verb, command in commands.items())
    groups = ([_link(group), ", ".join(map(_link, verbs)), _options(group)] for group, verbs in users.items())
    return [
        *("# Reference", _INDEX),
        *("## Verbs", _table("Verb", "What it does", rows=verbs)),
        *("## Config groups", _table("Group", "Used by", "Options", rows=groups)),
    ]


def _verb_page(verb: str, command: Command, found: VerbHelp) -> list[str]:
    blocks = [f"# nemotron4 {_spoken(verb)}", f"{_plain(command.summary)}.", *_prose(comment(CONF / f"{verb}.yaml"))]
    if found.groups:
        rows = ([_link(group), _code(choice), _options(group)] for group, choice in found.groups.items())
        blocks += ["## Config groups", _table("Group", "Default", "Options", rows=rows)]
    keys = found.composed_keys()
    parts = [key for key in keys if "." not in key.name and key.type.startswith("keys")]
    single = [key for key in keys if key.name.split(".")[0] not in {part.name for part in parts}]
    blocks += ["## Keys", "Defaults are what the verb takes when nothing is typed.", _key_table(single)]
    for part in parts:
        below = [key for key in keys if key.name.startswith(f"{part.name}.")]
        options = f" Options: {_link(part.name)}." if part.name in found.groups else ""
        blocks += [f"### {part.name}", f"{_plain(part.text)}{options}", _key_table(below)]
    return blocks


def _group_page(group: str, verbs: list[str], job_type: type) -> list[str]:
    blocks = [f"# {group}", f"Used by {', '.join(map(_link, verbs))}, as `{group}=OPTION`."]
    if group in job_type.__annotations__:
        own, *below = keys_of(group, job_type)
        blocks += [_plain(own.text), "## Keys", "Defaults are those of keys that no option sets.", _key_table(below)]
    blocks.append("## Options")
    for option in config_groups()[group]:
        text = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8")
        blocks += [f"### {option}", f"```yaml\n{text.strip()}\n```"]
    return blocks


def _key_table(keys: list[Key]) -> str:
    rows = (
        [f"`{key.name}`", _plain(key.type), "required" if key.is_required else _code(key.default), _plain(key.text)]
        for key in keys
    )
    return _table("Key", "Type", "Default", "Meaning", rows=rows) if keys else ""


def _table(*head: str, rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [list(head), ["---"] * len(head), *rows])


def _prose(lines: list[str]) -> list[str]:
    """The paragraphs of a comment; indented lines are commands."""
    blocks = []
    for is_code, group in groupby(lines, lambda line: line.startswith((" ", "nemotron4 "))):
        block = "\n".join(line.removeprefix("  ") for line in group)
        blocks.append(f"```text\n{block}\n```" if is_code else _plain(block))
    return blocks


def _plain(text: str) -> str:
    """Text whose only Markdown is code in backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*\[\]|])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _options(group: str) -> str:
    return ", ".join(f"`{option}`" for option in config_groups()[group])


def _link(page: str) -> str:
    return f"[{_spoken(page)}]({page}.md)"


def _spoken(verb: str) -> str:
    return verb.replace("_", " ")


def main() -> int:
    """Write or check the pages; returns the exit status."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m nemotron4_config.reference", description=__doc__.split("\n")[2])
    parser.add_argument("directory", nargs="?", type=Path, default=Path("docs/reference"))
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    arguments = parser.parse_args()
    differing = stale(arguments.directory, pages())
    for path, text in differing.items():
        print(path)
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    return 1 if differing and arguments.check else 0


def stale(directory: Path, texts: dict[str, str]) -> dict[Path, str | None]:
    """The files of a directory that differ from these pages, with the correct text; None if a file should not exist."""
    wanted: dict[Path, str | None] = {directory / name: text for name, text in texts.items()}
    present = {path: path.read_text(encoding="utf-8") for path in directory.glob("*.md")}
    return {path: wanted.get(path) for path in sorted({*wanted, *present}) if wanted.get(path) != present.get(path)}


if __name__ == "__main__":
    sys.exit(main())
