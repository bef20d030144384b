"""What processes import that have imported Lightning by way of ours; each puts what it found into a queue."""

import importlib
import sys
from importlib.util import find_spec

from lightning_utilities.core.imports import package_available

OF_METRICS = ("scipy", "transformers")


def imports(results):
    imported = [name for name in OF_METRICS if name in sys.modules]
    from scipy.special import erf
    from transformers import AutoModel

    results.put((imported, "lightning.pytorch" in sys.modules, float(erf(0)), AutoModel.__name__))


def import_where_a_metric_needs_scipy(directory, results):
    import nemotron4_train.lightning as ours

    sys.path.insert(0, directory)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]:
        del sys.modules[name]
    importlib.reload(ours)
    found = find_spec("scipy") is not None and package_available("scipy")
    import torchmetrics

    results.put((found, "torch_fidelity" in sys.modules, torchmetrics.Metric.__name__))
