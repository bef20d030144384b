from pathlib import Path

import pytest
from smoke import prepare_tiny, run, smoke_job


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    return prepare_tiny(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def undisturbed(prepared, tmp_path_factory):
    """A complete run, as its job and its directory: not to be changed."""
    job = smoke_job(prepared, tmp_path_factory.mktemp("undisturbed"))
    return job, run(job)
