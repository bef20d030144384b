"""A Slurm of our own for these tests, and a tiny corpus in a directory that its jobs run in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, missing
from smoke import tiny_workspace


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
    return tiny_workspace(tmp_path_factory.mktemp("workspace"))
