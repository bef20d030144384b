"""A Slurm of our own for these tests, and a tiny corpus in a directory that its jobs run in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, missing
from smoke import nemotron4
from tiny_corpus import write_tiny_corpus


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(f"no Slurm: {reason}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    patch = pytest.MonkeyPatch()
    try:
        cluster.start()
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster
    finally:
        cluster.stop()
        patch.undo()


@pytest.fixture(scope="session")
def workspace(cluster, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("workspace")
    write_tiny_corpus(directory / "raw", num_documents=480)
    nemotron4(
        "prepare", "corpus=files", "corpus.name=tiny", "corpus.files=[raw/*.jsonl]", "tokenizer.vocab_size=1024",
        cwd=directory,
    )  # fmt: skip
    return directory
