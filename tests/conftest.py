"""Tests see no GPU, nor do the processes that they start, but those marked `requires(gpu=N)`.

CUDA reads once per process which GPUs are visible, so a run of pytest has tests of one kind: with `--gpu` the marked
ones, without it all others.
"""

import os
from contextlib import suppress

import pytest

with suppress(ImportError):
    # It puts its own distutils in the place of Python's when it is first imported, here by torch's compiler. That once
    # failed in a process which had run many other tests; before any test it works.
    import setuptools  # noqa: F401  # imported for its effect


def pytest_addoption(parser):
    parser.addoption("--gpu", action="store_true", help="run the tests marked requires(gpu=N), and no others")


def pytest_configure(config):
    if not config.getoption("gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config, items):
    if not config.getoption("gpu"):
        for item in items:
            if gpus := num_gpus_required(item):
                item.add_marker(pytest.mark.skip(reason=f"needs {gpus} GPU{'s' * (gpus > 1)}: run pytest --gpu"))
        return
    import torch

    config.hook.pytest_deselected(items=[item for item in items if not num_gpus_required(item)])
    items[:] = [item for item in items if num_gpus_required(item)]
    found = torch.cuda.device_count()
    for item in items:
        if (gpus := num_gpus_required(item)) > found:
            item.add_marker(pytest.mark.skip(reason=f"needs {gpus} GPU{'s' * (gpus > 1)}: this machine has {found}"))


def num_gpus_required(item):
    return max((mark.kwargs["gpu"] for mark in item.iter_markers("requires")), default=0)
