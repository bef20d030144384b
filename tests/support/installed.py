"""The packages of this repository as their pyproject.toml files declare them, and all that those bring."""

from __future__ import annotations

import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECTS: dict[str, dict[str, Any]] = {
    project["name"]: project
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
    for project in [tomllib.loads(path.read_text(encoding="utf-8"))["project"]]
}
"""The [project] table of each package, by its name. Read from the tree: an editable install may know an older one."""


def brought_by(*names: str) -> set[str]:
    """The distributions that `pip install NAMES` leaves here, such as nemotron4-eval or nemotron4-eval[harness]."""
    found: set[tuple[str, str]] = set()
    asked = map(Requirement, names)
    wanted = [(each.name, extra) for each in asked for extra in ("", *each.extras)]
    while wanted:
        name, extra = item = wanted.pop()
        if item in found:
            continue
        found.add(item)
        for requirement in map(Requirement, _requirements(name, extra)):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return {name for name, _ in found}


def of_cuda(name: str) -> bool:
    """Whether it comes with torch's wheel for CUDA alone, which asks for it in a version of its own."""
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


def _requirements(name: str, extra: str) -> list[str]:
    if name not in PROJECTS:
        return distribution(name).requires or []
    project = PROJECTS[name]
    return list(project["optional-dependencies"][extra] if extra else project["dependencies"])


def environment_of(names: set[str], directory: Path) -> Path:
    """Make an environment that has these distributions and no others, by links to those here; returns its Python."""
    venv.create(directory, symlinks=True)
    (site_packages,) = directory.glob("lib/python*/site-packages")
    for name in names:
        found = distribution(name)
        for part in {path.parts[0] for path in found.files or []} - {"..", "__pycache__"}:
            if not (link := site_packages / part).exists():
                link.symlink_to(Path(str(found.locate_file(part))))
    return directory / "bin" / "python"
