"""One report of a made-up evaluation, which the tests of this folder look at."""

import made_up_evaluation as made
import pytest


@pytest.fixture(scope="session")
def evaluation():
    return made.evaluation()


@pytest.fixture(scope="session")
def report(tmp_path_factory, evaluation):
    """The directory of the report."""
    return made.write(tmp_path_factory.mktemp("report"), evaluation).parent
