from pathlib import Path

import pytest
from smoke import prepare_tiny


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    return prepare_tiny(tmp_path_factory.mktemp("corpus"))
