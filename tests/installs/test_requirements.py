"""requirements.txt and requirements-train.txt, beside what the packages declare and what messages ask for."""

import re
from itertools import chain

from installed import PROJECTS, ROOT, brought_by, of_cuda
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDERS = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}


def lines_of(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_package_is_installed_from_the_tree():
    first, *others = lines_of("requirements-train.txt")
    assert first == "-c constraints.txt"
    assert sorted(others) == sorted(f"-e ./packages/{name}" for name in FOLDERS)
    first, *others = lines_of("requirements.txt")
    assert first == "-r requirements-train.txt"
    extras = {requirement.name: requirement.extras for requirement in map(Requirement, others)}
    assert extras == {
        "nemotron4-data": {"curate"},
        "nemotron4-eval": {"harness", "sandbox"},
        "nemotron4-infer": {"schema", "serve"},
    }
    assert all(PROJECTS[name]["optional-dependencies"].keys() >= asked for name, asked in extras.items())


def test_what_the_quick_session_leaves_out_exists():
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^LONG_TESTS = \((.*?)^\)", noxfile, re.MULTILINE | re.DOTALL)
    names = set(re.findall(r'"(\w+)"', listed))
    assert len(names) > 5
    assert names <= {path.stem for path in ROOT.glob("tests/**/test_*.py")}


def test_a_package_is_named_like_its_folder_and_depends_on_packages_of_the_tree():
    assert set(PROJECTS) == {f"nemotron4-{name}" for name in FOLDERS}
    for project in PROJECTS.values():
        asked = chain(project["dependencies"], *project.get("optional-dependencies", {}).values())
        ours = {name for text in asked if (name := Requirement(text).name).startswith("nemotron4-")}
        assert ours <= set(PROJECTS), project["name"]


def test_every_extra_that_a_text_names_exists():
    named = set()
    for pattern in ("packages/*/src/**/*.py", "packages/*/README.md", "conf/**/*.yaml", "docs/**/*.md", "*.md"):
        for path in ROOT.glob(pattern):
            named |= set(re.findall(r"(nemotron4-\w+)\[([\w,]+)\]", path.read_text(encoding="utf-8")))
    assert ("nemotron4-eval", "harness") in named
    for name, extras in named:
        assert PROJECTS[name]["optional-dependencies"].keys() >= set(extras.split(",")), (name, extras)


def test_all_that_the_requirements_bring_has_a_version():
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines_of("constraints.txt")}
    brought = brought_by(
        *PROJECTS, "nemotron4-data[curate]", "nemotron4-eval[harness]", "nemotron4-infer[schema,serve]"
    )
    assert {name for name in brought - pinned - set(PROJECTS) if not of_cuda(name)} == set()


def test_a_package_has_a_readme_that_lists_its_extras():
    for name, project in PROJECTS.items():
        text = (ROOT / "packages" / name.removeprefix("nemotron4-") / project["readme"]).read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n")
        assert re.search(r"^pip install -r requirements(-train)?\.txt", text, re.MULTILINE), name
        for extra in project.get("optional-dependencies", {}):
            assert f"[{extra}]" in text or f"| `{extra}` |" in text, (name, extra)
