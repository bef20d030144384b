"""What a package offers is what its `__all__` says: every public name stands there, and each can be imported."""

import ast
import importlib
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
MODULES = {
    ".".join(path.relative_to(source).parent.parts): path
    for source in sorted(PACKAGES.glob("*/src"))
    for path in sorted(source.glob("nemotron4_*/**/__init__.py"))
}


def public_names(tree):
    """Names that a module defines or imports from our packages, for a type checker alone too, without _private ones."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("nemotron4_")):
            found |= {alias.asname or alias.name for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


@pytest.mark.parametrize("name", MODULES)
def test_the_public_names_are_those_of_all_and_can_be_imported(name):
    module = importlib.import_module(name)
    listed = list(getattr(module, "__all__", []))
    assert sorted(listed) == sorted(public_names(ast.parse(MODULES[name].read_text(encoding="utf-8"))))
    assert [each for each in listed if not hasattr(module, each)] == []


def test_every_package_is_looked_at():
    assert {name.partition(".")[0] for name in MODULES} == {
        f"nemotron4_{path.parent.name}" for path in PACKAGES.glob("*/pyproject.toml")
    }
