"""What a rank imports before its first step."""

import sys

import pytest
from forks import FORKS

OF_METRICS = ("scipy", "transformers")


def imports(results):
    imported = [name for name in OF_METRICS if name in sys.modules]
    from scipy.special import erf
    from transformers import AutoModel

    results.put((imported, "lightning.pytorch" in sys.modules, float(erf(0)), AutoModel.__name__))


def test_packages_of_metrics_that_are_not_used_are_not_imported_and_can_be():
    """In a process that has imported what `forks.py` names, a rank's imports among them."""
    for name in OF_METRICS:
        pytest.importorskip(name)
    results = FORKS.Queue()
    process = FORKS.Process(target=imports, args=(results,))
    process.start()
    assert results.get(timeout=120) == ([], True, 0.0, "AutoModel")
    process.join()
