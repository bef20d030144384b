"""From a sharded checkpoint of any topology to a Hugging Face directory, with the provenance of what it holds.

Invariant: the model is never whole in memory: a parameter is read, stored under its Hugging Face names and let go.
"""

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
    max_shard_bytes: int = 5_000_000_000
    """Most bytes of weights a file; the export holds no more than that and a few tensors in memory."""

    def __post_init__(self) -> None:
        """Refuse files that hold nothing."""
        if self.max_shard_bytes < 1:
            raise ValueError(f"max_shard_bytes ({self.max_shard_bytes}): must be at least 1")


def export_checkpoint(job: ExportJob, train_job: TrainJob) -> Path:
    """Write the model directory; raises ValueError when the run has no checkpoint or it does not fit."""
    import torch

    from nemotron4_data import Corpus
    from nemotron4_model import Transformer, write_pretrained
    from nemotron4_train import checkpoint

    run = Path(job.run)
    found = checkpoint.find(run, job.checkpoint or "auto", key="checkpoint")
    if found is None:
        raise ValueError(f"run ({run}): has no complete checkpoint; train first, or give checkpoint=PATH")
    source, state = found
    directory = Path(job.directory) if job.directory else run / "export"
    if directory.exists() and not (directory / PROVENANCE).is_file():
        raise ValueError(f"directory ({directory}): exists and is not an export of ours; give directory=PATH")
    checkpoint.check_model(source, state, train_job.model)
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Transformer(train_job.model).named_parameters()}
    corpus = Corpus.open(train_job.data.dir)
    ledger = checkpoint.ledger(source)
    if corpus.tokenizer_digest != ledger.tokenizer:
        raise ValueError(
            f"data.dir ({train_job.data.dir}): its tokenizer is {corpus.tokenizer_digest[:12]}, but the checkpoint was "
            f"trained with {ledger.tokenizer[:12]}: put the corpus back that the run read"
        )
    provenance = {
        "job_digest": state.get("job_digest", train_job.digest()),  # an older checkpoint does not say
        "corpus_digest": ledger.corpus,
        "checkpoint": source.name,
        "step": state["step"],
        "tokens": state["tokens"],
        "source_tokens": {name: counts["tokens"] for name, counts in ledger.sources.items()},
    }
    shutil.rmtree(partial_path(directory), ignore_errors=True)
    write_pretrained(
        train_job.model,
        checkpoint.read_parameters(source, shapes),
        partial_path(directory),
        dtype=getattr(torch, job.dtype.name),
        tokenizer_model=str(corpus.tokenizer.path),
        max_shard_bytes=job.max_shard_bytes,
        extra_files={PROVENANCE: json.dumps(provenance, indent=1) + "\n"},
    )
    commit_directory(directory)
    print(f"exported step {state['step']} to {directory}", file=sys.stderr)
    return directory
