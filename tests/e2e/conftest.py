"""A tiny corpus prepared by the command line, in a working directory as a user would have it."""

from pathlib import Path

import pytest
from smoke import nemotron4
from tiny_corpus import write_tiny_corpus


def pytest_addoption(parser):
    parser.addoption("--write-table", metavar="FILE", help="write the table of equivalence there")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("workspace")
    write_tiny_corpus(directory / "raw", num_documents=480)
    nemotron4(
        "prepare", "corpus=files", "corpus.name=tiny", "corpus.files=[raw/*.jsonl]", "tokenizer.vocab_size=1024",
        cwd=directory,
    )  # fmt: skip
    return directory
