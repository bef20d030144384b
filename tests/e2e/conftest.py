"""A tiny corpus prepared by the command line, in a working directory as a user would have it."""

from pathlib import Path

import pytest
from smoke import tiny_workspace


def pytest_addoption(parser):
    parser.addoption("--write-table", metavar="FILE", help="write the table of equivalence there")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    return tiny_workspace(tmp_path_factory.mktemp("workspace"))
