"""What an export says of the run it is of, and where that run is now.

Invariant: a run is known by the id in its run.json, not by the name of a folder. Only exports of older versions, which
hold no id, are taken to be of the run that they lie in.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "provenance.json"
IDENTITY_KEYS = ("run_id", "job_digest", "checkpoint")
"""What the result of an evaluation says of the model's origin."""


def read_provenance(model_dir: Path) -> dict[str, Any]:
    """provenance.json; empty for a model that `nemotron4 export` did not write. ValueError when it is damaged."""
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
    """The directory of the run that the model is of: the one it lies in, or the one it was exported from."""
    run_id = provenance.get("run_id")
    if run_id is None:
        return model_dir.parent if model_dir.name == "export" else None
    places = (model_dir.parent, model_dir.resolve().parent, Path(str(provenance.get("run_directory"))))
    return next((place for place in places if _id_of(place) == run_id), None)


def _id_of(directory: Path) -> Any:
    """The id in the run.json of a directory; None where there is none."""
    try:
        return json.loads((directory / "run.json").read_text(encoding="utf-8")).get("id")
    except (OSError, ValueError, AttributeError):
        return None
