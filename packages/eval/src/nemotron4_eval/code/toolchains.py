"""Toolchains of `code.languages` on this machine: found, tried on a right and a wrong program, or reported missing.

Invariant: a language whose toolchain cannot judge its trial is missing; it never makes a model's programs wrong.
"""

import atexit
import functools
import glob
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nemotron4_common.rules import require
from nemotron4_eval.code.languages import LANGUAGES, Language, Tool
from nemotron4_eval.code.program import Limits, Program
from nemotron4_eval.code.sandbox import can_become_nobody

_SYSTEM = (Path("/usr"), Path("/bin"), Path("/lib"))
"""What every sandbox shows to programs."""


class MissingToolchainError(ValueError):
    """A language's programs cannot be run here; `command` is what brings its tools, or empty."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """A language whose tools are there."""

    language: Language
    paths: Mapping[str, str]
    """Of its tools, by name."""
    read_only: tuple[str, ...]
    """What programs must be able to read beside /usr."""

    def program(self, source: str) -> Program:
        """What compiles and runs the text of a program."""
        commands = [self._command(text) for text in (self.language.compile, self.language.run) if text]
        return Program(
            files={self.language.source: source},
            commands=commands,
            environment=self.language.environment,
            read_only=self.read_only,
            limits=Limits(seconds=self.language.seconds),
        )

    def _command(self, text: str) -> list[str]:
        return [_filled(word, self.paths) for word in text.split()]


def find_toolchain(name: str) -> Toolchain:
    """The toolchain of a language; ValueError if there is no such language, MissingToolchainError without its tools."""
    known = ", ".join(LANGUAGES)
    require(name in LANGUAGES, "language", name, f"its programs cannot be run; languages are {known}")
    language = LANGUAGES[name]
    found = {key: _find(tool) for key, tool in language.tools.items()}
    if absent := [key for key, path in found.items() if path is None]:
        ways = list(dict.fromkeys(language.tools[key].brought_by for key in absent))
        message = f"{language.title}: {', '.join(absent)} not found; {'; '.join(ways)}"
        raise MissingToolchainError(message, "; ".join(ways))
    paths = {key: path for key, path in found.items() if path is not None}
    _check_readable(language, paths)
    shown = dict.fromkeys(place for path in paths.values() if (place := _installed_in(Path(path))))
    return Toolchain(language=language, paths={"headers": "."} | paths, read_only=tuple(shown))


def _check_readable(language: Language, paths: Mapping[str, str]) -> None:
    """Raise MissingToolchainError for a tool in a directory of root's: programs run as another user."""
    for path in paths.values() if _becomes_nobody() else ():
        if not _others_may_read(Path(path)):
            raise MissingToolchainError(
                f"{language.title}: {path} cannot be read by the user that programs run as; install it elsewhere"
            )


def with_precompiled_header(toolchain: Toolchain) -> Toolchain:
    """The toolchain with its language's header compiled, which takes seconds once a process and saves one a program."""
    header = toolchain.language.precompiled_header
    if not header:
        return toolchain
    directory = _header_directory(toolchain.paths["g++"], header)
    return replace(
        toolchain,
        paths={**toolchain.paths, "headers": directory},
        read_only=(*toolchain.read_only, directory),
    )


@functools.cache
def _header_directory(compiler: str, header: str) -> str:
    """A new directory that hides `header` behind a compiled one, removed when the process ends.

    Where the compiled one is absent or does not fit, the compiler reads the plain one instead.
    """
    directory = tempfile.mkdtemp(prefix="nemotron4-headers-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    own = Path(directory, header)
    own.parent.mkdir(parents=True)
    own.write_text(f"#include_next <{header}>\n")
    command = [compiler, "-std=c++17", "-w", "-x", "c++-header", "-o", f"{own}.gch", str(own)]
    subprocess.run(command, capture_output=True, timeout=120, check=False)
    for path in (Path(directory), *Path(directory).rglob("*")):
        path.chmod(0o755)  # programs run as another user
    return directory


def _find(tool: Tool) -> str | None:
    for name in tool.names:
        if name == "python3":
            return _find_python()
        if name.startswith("/"):
            if found := sorted(glob.glob(name)):
                return found[-1]
        elif path := shutil.which(name):
            real = Path(path).resolve()
            # Inside /usr the name stays, as some programs go by theirs; other links may lead out of what is shown.
            return path if _in_system(Path(path)) and _in_system(real) else str(real)
    return None


def _find_python() -> str | None:
    """The Python that runs this, without its virtual environment; the system's where another user may not read it."""
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if _in_system(own) or not _becomes_nobody() or _others_may_read(own):
        return str(own)
    return shutil.which("python3", path="/usr/local/bin:/usr/bin") or str(own)


_becomes_nobody = functools.cache(can_become_nobody)
"""Whether programs run as another user than this process."""


def _others_may_read(path: Path) -> bool:
    return all(place.stat().st_mode & 0o001 for place in path.parents) and bool(path.stat().st_mode & 0o005)


def _in_system(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in _SYSTEM)


def _installed_in(path: Path) -> str | None:
    """What must be shown of a tool outside /usr: its directory, if that is its own, else the file; None inside /usr."""
    if _in_system(path):
        return None
    prefix = path.parent.parent if path.parent.name == "bin" else path.parent
    return str(path if prefix in (Path("/"), Path.home()) else prefix)


def _filled(word: str, paths: Mapping[str, str]) -> str:
    return re.sub(r"\{(\S+?)\}", lambda match: paths[match[1]], word)
