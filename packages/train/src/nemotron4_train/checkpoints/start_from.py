"""Starting a run from the weights of a model directory, such as an export or a published model.

Invariants: what can be checked without reading weights is checked before workers start; the directory is needed only
until the run has a checkpoint, which holds its digests.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron4_common.rules import require
from nemotron4_common.staging import file_sha256
from nemotron4_data import Corpus
from nemotron4_data.added_pieces import num_shared_pieces
from nemotron4_data.manifest import TOKENIZER_FILE
from nemotron4_train.checkpoints.reading import describe_model
from nemotron4_train.job import TrainJob
from nemotron4_train.ranks import num_ranks, on_all_ranks, rank
from nemotron4_train.run_directory import TOKENIZER, read_record

if TYPE_CHECKING:
    from nemotron4_model import ModelConfig, Transformer

_OTHER_FILES = ("config.json", TOKENIZER, "provenance.json")
_ROWS_MULTIPLE = 128  # of the vocabulary: published Nemotron models have such, and matrix products are fast


def model_number(job: Mapping[str, Any], key: str) -> int | float | None:
    """`model.KEY` of a composed job (nested mappings) that takes its architecture from start_from.

    If the directory is gone, the run that the job would continue knows it. Raises ValueError if neither is there.
    """
    directory, run = job["start_from"], job["run"]
    if directory is None:
        raise ValueError("model (from_directory): takes its architecture from start_from; give start_from=MODEL_DIR")
    if not Path(directory).is_dir():
        with suppress(ValueError):
            record = read_record(Path(run["dir"] or Path(run["root"]) / run["name"] / "latest"))
            if record is not None and record.identity is not None and record.identity.get("start_from") == directory:
                known: int | float | None = record.identity["model"][key]
                return known
    found: int | float | None = getattr(_load_config(directory), key)
    return found


def check_model(job: TrainJob) -> None:
    """Check that start_from holds a whole model of the job's architecture, and a tokenizer; reads no weights."""
    from nemotron4_model.hugging_face import check_pretrained

    directory = str(job.start_from)
    stored = _load_config(directory)
    ours, theirs = describe_model(job.model), describe_model(stored)
    for name, value in ours.items():
        rule = f"start_from ({directory}) has {theirs[name]}; leave it out, or choose model=from_directory"
        require(value == theirs[name] or name == "vocab_size", f"model.{name}", value, rule)
    require(
        job.model.vocab_size >= stored.vocab_size,
        "model.vocab_size",
        job.model.vocab_size,
        f"start_from ({directory}) has {stored.vocab_size} rows, and all are kept; leave it out, or raise it",
    )
    with _naming_key(directory):
        check_pretrained(directory)
    if not (Path(directory) / TOKENIZER).is_file():
        others = "".join(f" (a copy of {path.name}?)" for path in sorted(Path(directory).glob("*.model"))[:1])
        raise ValueError(
            f"start_from ({directory}): has no {TOKENIZER}, the SentencePiece file that the corpus must share; put it"
            f" there{others}; tokenizer.json cannot replace it"
        )


@dataclass(frozen=True)
class Pieces:
    """Which pieces of the corpus's tokenizer the model knows."""

    known: int
    """Pieces of the model's own tokenizer."""
    total: int
    """Pieces of the corpus's tokenizer: the same, and those added to it."""

    @classmethod
    def of(cls, job: TrainJob, corpus: Corpus) -> Pieces:
        """Compare the tokenizers. Raises ValueError unless they are the same but for added pieces, which fit."""
        directory = Path(str(job.start_from))
        path = directory / TOKENIZER
        if file_sha256(path) == corpus.tokenizer_digest:
            known: int | None = corpus.vocab_size
        else:
            known = num_shared_pieces(path, corpus.dir / TOKENIZER_FILE)
        if known is None:
            raise ValueError(
                f"data.dir ({job.data.dir}): has another tokenizer than start_from ({directory}); prepare the corpus"
                f" with tokenizer.model={path}"
            )
        multiple = math.lcm(_ROWS_MULTIPLE, job.topology.tensor)
        rows = -(-corpus.vocab_size // multiple) * multiple
        require(
            corpus.vocab_size <= job.model.vocab_size,
            "model.vocab_size",
            job.model.vocab_size,
            f"smaller than the {corpus.vocab_size} pieces of the tokenizer in {job.data.dir}; give"
            f" model.vocab_size={rows}, which adds rows to the model of start_from",
        )
        return cls(known, corpus.vocab_size)


@dataclass(frozen=True)
class Parent:
    """The model that a run starts from."""

    directory: Path
    pieces: Pieces
    record: Mapping[str, Any]
    """What checkpoints and exports keep: where it was, the SHA-256 of its files, and what was added to it."""

    @classmethod
    def open(cls, job: TrainJob, corpus: Corpus) -> Parent:
        """Check the directory again, and hash its files, each rank its share of them: a collective over the ranks."""
        from nemotron4_model.hugging_face import weight_files

        directory = Path(str(job.start_from))

        def hash_part() -> dict[str, str]:
            check_model(job)
            names = [*weight_files(directory), *(name for name in _OTHER_FILES if (directory / name).is_file())]
            return {name: file_sha256(directory / name) for name in sorted(names)[rank() :: num_ranks()]}

        digests = {name: digest for part in on_all_ranks(hash_part) for name, digest in part.items()}
        pieces = Pieces.of(job, corpus)
        record = {
            "directory": str(directory.resolve()),
            "sha256": dict(sorted(digests.items())),
            "added_pieces": pieces.total - pieces.known,
            "added_rows": job.model.vocab_size - _load_config(str(directory)).vocab_size,
        }
        return cls(directory, pieces, record)

    def load(self, model: Transformer) -> None:
        """Fill the model, sharded or not; rows of added pieces, and added rows, begin at the mean of the known ones."""
        from nemotron4_model.hugging_face import NewPieces, load_weights

        load_weights(model, self.directory, NewPieces(self.pieces.known, self.pieces.total))
        if rank() == 0:
            added = " and ".join(f"{self.record[f'added_{what}']} added {what}" for what in ("pieces", "rows"))
            print(f"started from the weights of {self.directory}, with {added}", file=sys.stderr)


def _load_config(directory: str) -> ModelConfig:
    from nemotron4_model import load_config

    rule = "not a directory; give a model directory, such as runs/demo/latest/export"
    require(Path(directory).is_dir(), "start_from", directory, rule)
    with _naming_key(directory):
        return load_config(directory)


@contextmanager
def _naming_key(directory: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        reason = str(error).removeprefix(str(Path(directory))).lstrip("/: ")
        raise ValueError(f"start_from ({directory}): {reason}") from error
