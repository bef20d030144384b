"""What a rank imports before its first step."""

import pytest
from forks import FORKS
from metric_imports import OF_METRICS, import_where_a_metric_needs_scipy, imports


def test_packages_of_metrics_that_are_not_used_are_not_imported_and_can_be():
    """In a process that has imported what `forks.py` names, a rank's imports among them."""
    for name in OF_METRICS:
        pytest.importorskip(name)
    results = FORKS.Queue()
    process = FORKS.Process(target=imports, args=(results,))
    process.start()
    assert results.get(timeout=120) == ([], True, 0.0, "AutoModel")
    process.join()


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
