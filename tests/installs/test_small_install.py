"""A node that trains installs no evaluation harness and no library that reads or curates raw text."""

import subprocess
from importlib.metadata import packages_distributions

import pytest
from installed import PROJECTS, brought_by, environment_of, of_cuda
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nemotron4_data.prepare import CURATE_MODULES

TRAINING = ("nemotron4-train", "nemotron4-config")
IMPORTS_AND_REFUSALS = """
import nemotron4_train.launching.launch, nemotron4_train.lightning.fit
from nemotron4_config.main import main

print(main(["prepare", "corpus=sample"]))
print(main(["eval", "suite=demo", "model_dir=none"]))
"""


@pytest.fixture(scope="module")
def brought():
    return brought_by(*TRAINING)


def test_a_node_that_trains_has_at_most_60_packages(brought):
    """Counted: ours, and every distribution that they bring on this Python, torch included.

    Not counted: pip, and what torch's wheel for CUDA brings beside it (nvidia-*, cuda-*, triton).
    """
    counted = sorted(name for name in brought if not of_cuda(name))
    assert {"torch", "lightning", *TRAINING} <= set(counted)
    assert len(counted) <= 60, counted


def test_training_imports_none_of_the_libraries_that_it_does_not_install(brought, tmp_path):
    python = environment_of(brought, tmp_path / "environment")
    done = subprocess.run(
        [python, "-c", IMPORTS_AND_REFUSALS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2\n2\n"), done.stderr
    assert done.stderr.splitlines() == [
        "nemotron4 prepare: needs the libraries that read and curate raw text; pip install 'nemotron4-data[curate]'",
        "nemotron4 eval: suite.tasks ([heldout_continuation]): needs the LM Evaluation Harness;"
        " pip install 'nemotron4-eval[harness]'",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["environment"]


def test_the_modules_of_curate_are_those_that_the_extra_brings():
    brings = PROJECTS["nemotron4-data"]["optional-dependencies"]["curate"]
    of_modules = packages_distributions()
    assert {canonicalize_name(of_modules[module][0]) for module in CURATE_MODULES} == {
        canonicalize_name(Requirement(text).name) for text in brings
    }
