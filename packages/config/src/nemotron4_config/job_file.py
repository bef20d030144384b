"""job.yaml: the composed job as plain YAML, written once by the command line and read by every worker.

Invariant: `load_job(path, type(job))` of a file holding `render_job(job)` equals `job`; no worker runs Hydra.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

Job = TypeVar("Job")


def render_job(job: Any) -> str:
    """The job (a dataclass instance) as YAML text."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(job))


def load_job(path: str | Path, job_type: type[Job]) -> Job:
    """Read a job file back into its dataclass; raises ValueError naming the file when it does not fit."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        loaded = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(job_type), OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a {job_type.__name__} job file ({reason}); compose the job again") from error
    assert isinstance(loaded, job_type)
    return loaded


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: staged, fsynced, renamed. OSError names the path."""
    staged = path.with_name(f".{path.name}.partial")
    try:
        with open(staged, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    except OSError as error:  # of a full disk: it names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
