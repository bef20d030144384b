"""docs/planner.md has what the program computes now."""

import importlib.util

import pytest
from composed import composed
from pages import DOCS, ROOT

SPEC = importlib.util.spec_from_file_location("planner_page", ROOT / "tools" / "planner_page.py")
PAGE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PAGE)


@pytest.fixture(scope="module")
def page():
    return (DOCS / "planner.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables():
    return PAGE.tables(composed)


def test_the_page_is_what_the_program_computes(page, tables, monkeypatch):
    monkeypatch.setattr(PAGE, "tables", lambda compose: tables)
    assert PAGE.filled(page, composed) == page, "run python tools/planner_page.py, and read what it changed"
    assert PAGE.filled(page.replace("2.66", "2.67"), composed) == page


def test_every_mark_of_the_page_is_filled(page, tables):
    assert page.count(": begin -->") == page.count(": end -->") == len(tables)
