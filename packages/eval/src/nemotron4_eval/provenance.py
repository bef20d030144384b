"""Which run an export was made from, and where that run is now.

Invariant: a run is identified by the id in its run.json, not by the name of a folder. Only an export by an older
version, which has no id, is assumed to come from the run that contains it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "provenance.json"
IDENTITY_KEYS = ("run_id", "job_digest", "checkpoint")
"""Keys about the model's origin that are copied to the result of an evaluation."""


def read_provenance(model_dir: Path) -> dict[str, Any]:
    """provenance.json; empty for a model that `nemotron4 export` did not write. ValueError if it is damaged."""
    path = model_dir / FILE_NAME
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"model_dir ({model_dir}): its {FILE_NAME} cannot be read ({error}); export it again"
        ) from error


def find_run(model_dir: Path, provenance: Mapping[str, Any]) -> Path | None:
    """The directory of the model's run: the one that contains it or that it was exported from; None if not found."""
    run_id = provenance.get("run_id")
    if run_id is None:
        return model_dir.parent if model_dir.name == "export" else None
    places = (model_dir.parent, model_dir.resolve().parent, Path(str(provenance.get("run_directory"))))
    return next((place for place in places if _id_of(place) == run_id), None)


def _id_of(directory: Path) -> Any:
    """The id in the run.json of a directory; None if there is none."""
    try:
        return json.loads((directory / "run.json").read_text(encoding="utf-8")).get("id")
    except (OSError, ValueError, AttributeError):
        return None
