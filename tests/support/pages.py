"""The pages of the documentation, and the commands that they tell their readers to type."""

import re
import shlex
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from nemotron4_config.command import command_loaders

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "launchers/README.md")),
    *sorted(path for path in DOCS.rglob("*.md") if path.parent != DOCS / "reference"),  # which is generated
]


def block_commands(text: str) -> list[str]:
    """The `nemotron4` lines of a page's code blocks, in order."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("nemotron4 ")]


def inline_commands(text: str) -> list[str]:
    """The `nemotron4 VERB KEY=VALUE` in a page's running text and tables, but those with placeholders like NAME."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = [" ".join(code.split()) for code in re.findall(r"`(nemotron4 [a-z][^`]*)`", prose)]
    return [code for code in found if "=" in code and not re.search(r"\b[A-Z]+\b|\.\.\.", code)]


def table_commands(text: str) -> list[str]:
    """The commands in the first column of a page's tables."""
    return re.findall(r"^\| `(nemotron4 [^`]+)`", text, re.MULTILINE)


def words(command: str) -> tuple[str, list[str]]:
    """A command's verb, as its file in conf/ is called, and its arguments."""
    _, *rest = shlex.split(command)
    length = 2 if "_".join(rest[:2]) in command_loaders() else 1
    return "_".join(rest[:length]), rest[length:]


def jobs_of(arguments: list[str]) -> list[list[str]]:
    """The arguments of each job of a command: of all jobs of a sweep, without what the sweeper has of its own."""
    if "-m" not in arguments:
        return [arguments]
    texts = [text for text in arguments if text != "-m" and not text.startswith("hydra")]
    return [list(job) for job in BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(texts), None)[0]]
