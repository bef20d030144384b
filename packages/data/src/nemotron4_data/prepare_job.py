"""The job of `nemotron4 prepare`: which text, which tokenizer, and where the corpus goes. Sizes are bytes or tokens.

Light on purpose: composing and printing a job imports nothing but the standard library and other dataclasses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from glob import glob
from pathlib import Path

from .blend import BlendConfig
from .curation.config import CurationConfig
from .debian.config import DebianConfig

SOURCE_PATTERN = re.compile(r"[A-Za-z0-9_][\w.+#-]*/[A-Za-z0-9_][\w.+#-]*", re.ASCII)


@dataclass(kw_only=True)
class CorpusConfig:
    """Where the raw text lies and how records without a source or split are filed."""

    name: str
    """Name of the corpus; by default also of its directory."""
    files: list[str] = field(default_factory=list)
    """Paths, globs, URLs (https://, s3://, hf://datasets/NAME?split=train) of files in any format that `sources` reads;
    package://sample is the shipped corpus."""
    debian: DebianConfig | None = None
    """Or: built from distribution packages."""
    text_column: str = "text"
    """Field of JSON records, or column of Parquet files and Hugging Face datasets, that holds the text."""
    source: str = "english/documents"
    """domain/category of records that name no source."""
    heldout_fraction: float = 0.01
    """Share of documents held out where a record names no split, chosen by a hash of its id."""
    max_document_bytes: int = 10_000_000
    """A longer line, text or page is rejected, and read past without being held in memory."""
    max_expansion: int = 200
    """A file that unpacks to more than this many times its size (and 100 MB) is a bomb: rejected there."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", self.name, re.ASCII):
            raise ValueError(f"corpus.name ({self.name!r}) must be letters, digits, '_', '-' and '.': rename it")
        if not self.files and self.debian is None:
            raise ValueError("corpus.files ([]) must name at least one file or glob: pass corpus.files=[PATH,...]")
        if self.files and self.debian is not None:
            raise ValueError(f"corpus.files ({self.files}) cannot stand beside corpus.debian: choose one")
        if not SOURCE_PATTERN.fullmatch(self.source):
            raise ValueError(f"corpus.source ({self.source!r}) must be domain/category, as in english/documents")
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"corpus.heldout_fraction ({self.heldout_fraction}) must be at least 0 and below 1")
        if not self.text_column:
            raise ValueError("corpus.text_column ('') must name the field that holds the text")
        if self.max_document_bytes < 1:
            raise ValueError(f"corpus.max_document_bytes ({self.max_document_bytes}) must be at least 1")
        if self.max_expansion < 1:
            raise ValueError(f"corpus.max_expansion ({self.max_expansion}) must be at least 1")


@dataclass(kw_only=True)
class TokenizerConfig:
    """How the tokenizer is trained, or which trained one is used."""

    model: str | None = None
    """Path of an existing SentencePiece tokenizer.model; null trains one on this corpus."""
    vocab_size: int = 256_000
    """Pieces, the special and 256 byte pieces included."""
    train_bytes: int = 1_000_000_000
    """UTF-8 bytes of lines to train on, at most; a smaller corpus is used whole."""
    character_coverage: float = 0.9995
    """Share of characters that get a piece of their own; the others are spelled in bytes."""
    natural_domains: list[str] = field(default_factory=lambda: ["english", "code"])
    """Domains sampled by their size; the sources of every other are upsampled."""
    upsampling_exponent: float = 0.5
    """Upsampled sources of share f weigh f**exponent together and share it by size**exponent; 1 keeps sizes."""

    def __post_init__(self) -> None:
        if self.vocab_size < 512:
            raise ValueError(f"tokenizer.vocab_size ({self.vocab_size}) must be at least 512: 256 pieces are bytes")
        if self.train_bytes < 1:
            raise ValueError(f"tokenizer.train_bytes ({self.train_bytes}) must be at least 1")
        if not 0.9 <= self.character_coverage <= 1:
            raise ValueError(f"tokenizer.character_coverage ({self.character_coverage}) must lie in [0.9, 1]")
        if not 0 <= self.upsampling_exponent <= 1:
            raise ValueError(f"tokenizer.upsampling_exponent ({self.upsampling_exponent}) must lie in [0, 1]")


class ExecutorKind(Enum):
    """Where tasks run."""

    local = "local"
    """Processes on this machine."""
    ray = "ray"
    """A running Ray cluster."""


@dataclass(kw_only=True)
class ExecutorConfig:
    """Where the tasks of `prepare` run. It changes no byte of the corpus."""

    kind: ExecutorKind = ExecutorKind.local
    """Processes of this machine, or a running Ray cluster."""
    num_workers: int = 0
    """Tasks at a time: 0 is one a core (of the cluster, with Ray); a local 1 stays in this process."""
    address: str = "auto"
    """Of the Ray cluster, HOST:PORT; auto is the one of this machine."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"executor.num_workers ({self.num_workers}) must be 0 (one a core) or more")
        if not self.address:
            raise ValueError("executor.address ('') must be HOST:PORT of a Ray cluster, or auto")


@dataclass(kw_only=True)
class PrepareJob:
    """Turn raw text into documents, a tokenizer, token shards and a manifest that links them."""

    corpus: CorpusConfig
    """The raw text."""
    curation: CurationConfig = field(default_factory=CurationConfig)
    """What is repaired, dropped and deduplicated."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer."""
    blend: BlendConfig | None = None
    """Checked against the sources; the report shows its first distribution over one pass of the corpus."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Where the work is done."""
    dir: str
    """Directory of the prepared corpus: new, empty or one of `prepare`, and apart from all that is read."""
    seed: int = 1234
    """Draws the lines that the tokenizer is trained on."""

    def __post_init__(self) -> None:
        if not self.dir:
            raise ValueError("dir ('') must name the directory of the prepared corpus")

    def inputs(self) -> Iterator[tuple[str, str]]:
        """(key, path) of every file and directory that is read, but for corpus.files, and of the cache."""
        if self.tokenizer.model is not None:
            yield "tokenizer.model", self.tokenizer.model
        if self.curation.quality.model_dir:
            yield "curation.quality.model_dir", self.curation.quality.model_dir
        if self.corpus.debian is not None:
            yield "corpus.debian.cache", self.corpus.debian.cache
        for name, patterns in self.curation.decontamination.benchmarks.items():
            found = (path for pattern in patterns for path in glob(str(Path(pattern).expanduser()), recursive=True))
            yield from ((f"curation.decontamination.benchmarks.{name}", path) for path in found)
