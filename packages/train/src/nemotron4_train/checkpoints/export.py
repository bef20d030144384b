"""Export a sharded checkpoint of any topology as a Hugging Face directory, with its provenance.

Invariant: the whole model is never in memory: a parameter is read, stored under its Hugging Face names and released.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron4_common.ownership import IsOurs, check_apart, check_new_or_ours
from nemotron4_common.staging import file_sha256, staged_directory, write_file
from nemotron4_data import Corpus
from nemotron4_data.ledger import Ledger
from nemotron4_data.manifest import TOKENIZER_FILE
from nemotron4_eval.provenance import FILE_NAME as PROVENANCE
from nemotron4_infer.engine_config import Quantisation
from nemotron4_model.dtype import DType
from nemotron4_train.checkpoints.export_readme import README, export_readme
from nemotron4_train.job import TrainJob
from nemotron4_train.run_directory import TOKENIZER, read_record

_EXPORTED = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|(generation_)?config\.json|provenance\.json|"
    r"tokenizer\.model|tokenizer(_config)?\.json"
)


@dataclass(kw_only=True)
class ExportJob:
    """What to export, and where."""

    run: str
    """A run directory, such as runs/demo/latest."""
    checkpoint: str | None = None
    """A checkpoint directory of the run; null takes the newest complete one."""
    dir: str | None = None
    """The Hugging Face directory to write: new, empty or an export without other files; null writes <run>/export, or
    <run>/export-int4 and so on with quantization."""
    dtype: DType | None = None
    """Format of the stored weights: fp32 or bf16; null means fp32, or bf16 for what quantization leaves as it is."""
    quantization: Quantisation | None = None
    """Format of linear weights, int8, int4 or fp8, for `nemotron4 generate` and `serve`, which alone read such a
    directory; null stores weights that every program reads."""
    max_shard_bytes: int = 5_000_000_000
    """Most bytes of weights in one file; the export holds no more than that and a few tensors in memory."""

    def __post_init__(self) -> None:
        """Refuse files without room for weights, and an empty directory name, as an unset variable gives."""
        if self.dir == "":
            raise ValueError("dir (''): must name a directory; leave it out for <run>/export")
        if self.max_shard_bytes < 1:
            raise ValueError(f"max_shard_bytes ({self.max_shard_bytes}): must be at least 1")

    @property
    def stored_dtype(self) -> DType:
        """Format of the weights that are not quantised."""
        return self.dtype or (DType.fp32 if self.quantization is None else DType.bf16)


def export_checkpoint(job: ExportJob, train_job: TrainJob) -> Path:
    """Write the model directory; raises ValueError when the run has no checkpoint, or one that does not fit the job."""
    import torch

    from nemotron4_model import Transformer, write_pretrained
    from nemotron4_train.checkpoints import reading

    run = Path(job.run)
    found = reading.find(run, job.checkpoint or "auto", key="checkpoint", weights_only=True)
    if found is None:
        raise ValueError(f"run ({run}): has no complete checkpoint; train first, or give checkpoint=PATH")
    name = "export" if job.quantization is None else f"export-{job.quantization.value}"
    directory = Path(job.dir) if job.dir else run / name
    check_new_or_ours(directory, "dir", (PROVENANCE,))
    check_apart(directory, "dir", [("checkpoint", found.directory), ("data.dir", train_job.data.dir)])
    found.check_model(train_job.model)
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Transformer(train_job.model).named_parameters()}
    ledger = found.ledger
    tokenizer_model = _tokenizer_model(run, train_job.data.dir, ledger)
    provenance: dict[str, Any] = {
        **_run_of(found.directory),
        "job_digest": found.job_digest or train_job.digest(),  # older checkpoints lack it
        "corpus_digest": ledger.corpus,
        "manifest_digest": ledger.manifest,
        "checkpoint": found.directory.name,
        "step": found.step,
        "tokens": found.tokens,
        **({} if found.started_from is None else {"started_from": found.started_from}),
        **({} if job.quantization is None else {"quantization": job.quantization.value}),
        "source_tokens": {name: counts["tokens"] for name, counts in ledger.sources.items()},
    }
    readme = export_readme(
        train_job.run.name,
        train_job.model,
        step=found.step,
        tokens=found.tokens,
        dtype=job.stored_dtype.name,
        quantization=job.quantization,
    )
    with staged_directory(directory, "dir", _is_exported(directory)) as staged:
        write_pretrained(
            train_job.model,
            reading.read_parameters(found.directory, shapes),
            staged,
            dtype=job.stored_dtype.torch_dtype,
            tokenizer_model=tokenizer_model,
            max_shard_bytes=job.max_shard_bytes,
            extra_files={README: readme},
            **_quantised(job.quantization),
        )
        provenance["readme_sha256"] = file_sha256(staged / README)
        provenance["files"] = sorted([PROVENANCE, *(path.name for path in staged.iterdir())])
        write_file(staged / PROVENANCE, (json.dumps(provenance, indent=1) + "\n").encode())
    print(f"exported step {found.step} to {directory}", file=sys.stderr)
    return directory


def _quantised(quantization: Quantisation | None) -> dict[str, Any]:
    """What `write_pretrained` must be told."""
    if quantization is None:
        return {}
    from nemotron4_infer.weights.quantised import config_entries, encoder

    return {"encode": encoder(quantization), "extra_config": config_entries(quantization)}


def _tokenizer_model(run: Path, corpus_dir: str, ledger: Ledger) -> Path:
    """The run's own tokenizer, or its corpus's if it has none; ValueError unless the checkpoint was trained with it."""
    kept, asked = run / TOKENIZER, ledger.tokenizer
    if kept.is_file():
        if (found := file_sha256(kept)) != asked:
            raise ValueError(
                f"run ({run}): its {TOKENIZER} is {found[:12]}, but the checkpoint was trained with {asked[:12]};"
                " restore that file, or remove it to use the one of data.dir"
            )
        return kept
    if not Path(corpus_dir).exists():
        raise ValueError(
            f"run ({run}): has no {TOKENIZER}, and data.dir ({corpus_dir}) does not exist; restore that corpus, or copy"
            f" its {TOKENIZER_FILE} to {kept}"
        )
    corpus = Corpus.open(corpus_dir)
    if corpus.tokenizer_digest != asked:
        raise ValueError(
            f"data.dir ({corpus_dir}): its tokenizer is {corpus.tokenizer_digest[:12]}, but the checkpoint was "
            f"trained with {asked[:12]}; restore the corpus that the run read"
        )
    return corpus.dir / TOKENIZER_FILE


def _run_of(checkpoint: Path) -> dict[str, str]:
    """The run that a checkpoint belongs to, and where it is now; empty for runs of older versions, which have no id."""
    run = checkpoint.resolve().parent.parent
    with suppress(ValueError):
        if (record := read_record(run)) is not None and record.id is not None:
            return {"run_id": record.id, "run_directory": str(run)}
    return {}


def _is_exported(directory: Path) -> IsOurs:
    """Tells which files an earlier export wrote; exports of older versions do not list theirs."""
    path = directory / PROVENANCE
    if not path.is_file():
        return lambda name: False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files, readme_sha256 = content.get("files"), content.get("readme_sha256")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not written by an export ({error}); move it elsewhere") from error

    def is_ours(name: str) -> bool:
        if name == README:  # which users may edit
            return bool(file_sha256(directory / README) == readme_sha256)
        return bool(_EXPORTED.fullmatch(name)) if files is None else name in files

    return is_ours
