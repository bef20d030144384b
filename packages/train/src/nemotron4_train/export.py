"""From a sharded checkpoint of any topology to a Hugging Face directory, with the provenance of what it holds."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from nemotron4_data.staging import commit_directory, partial_path
from nemotron4_train.job import TrainJob

PROVENANCE = "provenance.json"


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
    directory = Path(job.directory) if job.directory else run / "export"
    if directory.exists() and not (directory / PROVENANCE).is_file():
        raise ValueError(f"directory ({directory}): exists and is not an export of ours; give directory=PATH")
    model = Transformer(train_job.model)
    checkpoint.load_model(source, model)
    corpus = Corpus.open(train_job.data.dir)
    ledger = checkpoint.ledger(source)
    if corpus.tokenizer_digest != ledger.tokenizer:
        raise ValueError(
            f"data.dir ({train_job.data.dir}): its tokenizer is {corpus.tokenizer_digest[:12]}, but the checkpoint was "
            f"trained with {ledger.tokenizer[:12]}: put the corpus back that the run read"
        )
    provenance = {
        "job_digest": train_job.digest(),
        "corpus_digest": ledger.corpus,
        "checkpoint": source.name,
        "step": state["step"],
        "tokens": state["tokens"],
        "source_tokens": {name: counts["tokens"] for name, counts in ledger.sources.items()},
    }
    shutil.rmtree(partial_path(directory), ignore_errors=True)
    save_pretrained(
        model,
        partial_path(directory),
        dtype=getattr(torch, job.dtype.name),
        tokenizer_model=str(corpus.tokenizer.path),
        extra_files={PROVENANCE: json.dumps(provenance, indent=1) + "\n"},
    )
    commit_directory(directory)
    print(f"exported step {state['step']} to {directory}", file=sys.stderr)
    return directory
