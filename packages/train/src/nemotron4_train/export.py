"""From a sharded checkpoint of any topology to a Hugging Face directory, with the provenance of what it holds."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from nemotron4_train import atomic
from nemotron4_train.job import TrainJob


class ExportDtype(Enum):
    """Storage type of exported weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(kw_only=True)
class ExportJob:
    """What to export and where to."""

    run: str
    """A run directory, such as runs/demo/latest."""
    checkpoint: str | None = None
    """A checkpoint directory of the run; null takes the newest complete one."""
    directory: str | None = None
    """The Hugging Face directory to write; null writes <run>/export."""
    dtype: ExportDtype = ExportDtype.float32
    """float32 or bfloat16."""


def export_checkpoint(job: ExportJob, train_job: TrainJob) -> Path:
    """Write the model directory; raises ValueError when the run has no checkpoint or it does not fit."""
    import torch

    from nemotron4_data import Corpus
    from nemotron4_model import Transformer, save_pretrained
    from nemotron4_train import checkpoint

    run = Path(job.run)
    found = checkpoint.find(run, job.checkpoint or "auto")
    if found is None:
        raise ValueError(f"run ({run}): has no complete checkpoint; train first, or give checkpoint=PATH")
    source, state = found
    model = Transformer(train_job.model)
    checkpoint.load_model(source, model)
    corpus = Corpus.open(train_job.data.dir)
    directory = Path(job.directory) if job.directory else run / "export"
    save_pretrained(model, directory, dtype=getattr(torch, job.dtype.name), tokenizer_model=str(corpus.tokenizer.path))
    provenance = {
        "job_digest": train_job.digest(),
        "corpus_digest": corpus.digest,
        "checkpoint": source.name,
        "step": state["step"],
        "tokens": state["tokens"],
        "source_tokens": state["source_tokens"],
    }
    atomic.write_text(directory / "provenance.json", json.dumps(provenance, indent=1) + "\n")
    print(f"exported step {state['step']} to {directory}", file=sys.stderr)
    return directory
