"""What a rank imports before its first step."""

import importlib
import sys
from importlib.util import find_spec

import pytest
from forks import FORKS
from lightning_utilities.core.imports import package_available

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


def import_where_a_metric_needs_scipy(directory, results):
    import nemotron4_train.lightning as ours

    sys.path.insert(0, directory)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]:
        del sys.modules[name]
    importlib.reload(ours)
    found = find_spec("scipy") is not None and package_available("scipy")
    import torchmetrics

    results.put((found, "torch_fidelity" in sys.modules, torchmetrics.Metric.__name__))


def test_an_installed_package_of_a_metric_that_needs_what_is_hidden_stops_nothing(tmp_path):
    """torchmetrics imports torch-fidelity where it is installed, and that imports scipy."""
    pytest.importorskip("scipy")
    package, record = tmp_path / "torch_fidelity", tmp_path / "torch_fidelity-0.3.0.dist-info"
    package.mkdir()
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-fidelity\nVersion: 0.3.0\n")
    (package / "__init__.py").write_text("import scipy\n")
    (package / "helpers.py").write_text("vassert = None\n")
    (package / "feature_extractor_inceptionv3.py").write_text("FeatureExtractorInceptionV3 = object\n")
    (package / "interpolate_compat_tensorflow.py").write_text("interpolate_bilinear_2d_like_tensorflow1x = None\n")
    results = FORKS.Queue()
    process = FORKS.Process(target=import_where_a_metric_needs_scipy, args=(str(tmp_path), results))
    process.start()
    assert results.get(timeout=120) == (True, True, "Metric")
    process.join()
