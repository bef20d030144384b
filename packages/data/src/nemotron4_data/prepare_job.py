"""The job of `nemotron4 prepare`: which text, which tokenizer, and where the corpus goes. Sizes are bytes or tokens.

Light on purpose: composing and printing a job imports nothing but the standard library and other dataclasses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from typing import Any

from nemotron4_common.rules import check_finite, require

from .blend import BlendConfig
from .curation.config import CurationConfig
from .debian.config import DebianConfig
from .paths import matching_paths

# Both halves become file names, which may have 255 bytes including their suffixes.
SOURCE_PATTERN = re.compile(r"[A-Za-z0-9_][\w.+#-]{0,99}/[A-Za-z0-9_][\w.+#-]{0,99}", re.ASCII)
CONSTANT = "constant:"


@dataclass(kw_only=True)
class ColumnsConfig:
    """Which field of a raw record (JSON, Parquet, a Hugging Face data set) holds what. null means no field, even where
    one has this name; constant:VALUE means VALUE for every document."""

    text: str = "text"
    """Field that holds the text."""
    id: str | None = "id"
    """Field that names the document; without one its name is a digest of the text."""
    source: str | None = "source"
    """Field that holds the source, as domain/category; without one it is corpus.source."""
    split: str | None = "split"
    """Field that holds the split: train or heldout (train, training; heldout, validation, valid, val, dev, test, eval);
    without one corpus.heldout_fraction decides."""
    language: str | None = "language"
    """Field that holds the code of the language, natural or programming."""
    date: str | None = "date"
    """Field that says when the text was written; of duplicates the older one stays."""

    def __post_init__(self) -> None:
        for name, column in vars(self).items():
            rule = f"must name a field, or be null or {CONSTANT}VALUE"
            require(column not in ("", CONSTANT), f"corpus.columns.{name}", repr(column), rule)
        named = not self.text.startswith(CONSTANT)
        require(named, "corpus.columns.text", self.text, "must name the field that holds the text")

    @property
    def names(self) -> list[str]:
        """The fields of raw records that are read."""
        columns = [getattr(self, item.name) for item in fields(self)]
        return [column for column in columns if column is not None and not column.startswith(CONSTANT)]

    @cached_property
    def as_they_are(self) -> bool:
        """Whether raw records already use the field names of a document."""
        return self == ColumnsConfig()

    def to_document(self, record: dict[str, Any]) -> dict[str, Any]:
        """A raw record with its fields renamed to those of a document."""
        own = [item.name for item in fields(self)]
        found = {name: value for name, value in record.items() if name not in own and name not in self.names}
        for name in own:
            column = getattr(self, name)
            if column is not None:
                constant = column.startswith(CONSTANT)
                found[name] = column.removeprefix(CONSTANT) if constant else record.get(column)
        return found

    def to_record(self, document: dict[str, Any]) -> dict[str, Any]:
        """The raw record that `to_document` turns into `document`, for formats whose fields have no own names."""
        columns = {item.name: getattr(self, item.name) for item in fields(self)}
        renamed = {name: value for name, value in document.items() if name not in columns}
        for name, column in columns.items():
            if name in document and column is not None and not column.startswith(CONSTANT):
                renamed[column] = document[name]
        return renamed


@dataclass(kw_only=True)
class CorpusConfig:
    """Where the raw text lies and how records without a source or split are filed."""

    name: str
    """Name of the corpus; by default also of its directory."""
    files: list[str] = field(default_factory=list)
    """Paths, globs, URLs (https://, s3://, hf://datasets/NAME?split=train) of files in any format that `sources` reads;
    a folder stands for the files below it in such formats, except names that begin with _ or .; a name that exists is
    not taken for a glob; package://sample is the shipped corpus."""
    debian: DebianConfig | None = None
    """Build the corpus from distribution packages instead of `files`."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Which field of a record holds what."""
    text_column: str | None = None
    """Old name of corpus.columns.text."""
    source: str = "english/documents"
    """Source, as domain/category, of records that name none."""
    heldout_fraction: float = 0.01
    """Share of documents held out where a record names no split, chosen by a hash of its id."""
    max_document_bytes: int = 10_000_000
    """Most bytes of a line, text or page; a longer one is rejected, and read past without being held in memory."""
    max_expansion: int = 200
    """A file that unpacks to more than this many times its size (and to more than 100 MB) is taken for a bomb and
    rejected."""

    def __post_init__(self) -> None:
        valid = bool(re.fullmatch(r"[A-Za-z0-9_][\w.-]*", self.name, re.ASCII))
        require(valid, "corpus.name", repr(self.name), "must be letters, digits, '_', '-' and '.'; rename it")
        rule = "must name at least one file or glob; pass corpus.files=[PATH,...]"
        require(bool(self.files) or self.debian is not None, "corpus.files", self.files, rule)
        named = all(pattern.strip() for pattern in self.files)
        require(named, "corpus.files", self.files, "has an empty name; write a path, a glob or a URL")
        rule = "cannot be combined with corpus.debian; choose one"
        require(not self.files or self.debian is None, "corpus.files", self.files, rule)
        valid = bool(SOURCE_PATTERN.fullmatch(self.source))
        require(valid, "corpus.source", repr(self.source), "must be domain/category, as in english/documents")
        share = self.heldout_fraction
        require(0 <= share < 1, "corpus.heldout_fraction", share, "must be at least 0 and below 1")
        rule = f"is now called corpus.columns.text; write corpus.columns.text={self.text_column}"
        require(self.text_column is None, "corpus.text_column", self.text_column, rule)
        for key in ("max_document_bytes", "max_expansion"):
            require(getattr(self, key) >= 1, f"corpus.{key}", getattr(self, key), "must be at least 1")


@dataclass(kw_only=True)
class TokenizerConfig:
    """How the tokenizer is trained, or which trained one is used."""

    model: str | None = None
    """Path of an existing SentencePiece tokenizer.model; null trains one on this corpus."""
    extra_pieces: list[str] = field(default_factory=list)
    """Pieces to add to `model`, with ids after its own: words, which text encodes to wherever they occur, or markers
    such as `<|user|>`, which no text encodes to."""
    vocab_size: int = 256_000
    """Pieces in the vocabulary, including the special ones and 256 for single bytes."""
    train_bytes: int = 1_000_000_000
    """Most UTF-8 bytes of lines to train on; a smaller corpus is used whole."""
    character_coverage: float = 0.9995
    """Share of characters that get a piece of their own; the others are spelled in bytes."""
    natural_domains: list[str] = field(default_factory=lambda: ["english", "code"])
    """Domains sampled by their size; the sources of every other are upsampled."""
    upsampling_exponent: float = 0.5
    """Upsampled sources of share f weigh f**exponent together and share it by size**exponent; 1 is by size."""

    def __post_init__(self) -> None:
        for piece in self.extra_pieces:
            is_word = piece.split() == [piece] and "\0" not in piece
            require(is_word, "tokenizer.extra_pieces", repr(piece), "must be text without white space; change it")
        rule = "are added to an existing tokenizer; give it as tokenizer.model=PATH"
        require(not self.extra_pieces or self.model is not None, "tokenizer.extra_pieces", self.extra_pieces, rule)
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
    """What runs the tasks: local (processes of this machine) or ray (a running Ray cluster)."""
    num_workers: int = 0
    """Tasks at a time; 0 is one per core (of the cluster, with Ray), and 1 on this machine stays in this process."""
    address: str = "auto"
    """Address of the Ray cluster, HOST:PORT; auto is the one of this machine."""

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, "executor.num_workers", self.num_workers, "must be 0 (one per core) or more")
        require(bool(self.address), "executor.address", "''", "must be HOST:PORT of a Ray cluster, or auto")


@dataclass(kw_only=True)
class PrepareJob:
    """Turn raw text into documents, a tokenizer, token shards and a manifest that links them."""

    corpus: CorpusConfig
    """The raw text."""
    curation: CurationConfig = field(default_factory=CurationConfig)
    """What is repaired, dropped and deduplicated."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """How the tokenizer is trained, or which trained one is used."""
    blend: BlendConfig | None = None
    """Blend that is checked against the sources; the report shows its first distribution over one pass of the
    corpus."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Where the work is done; it changes no byte of the corpus."""
    dir: str
    """Directory of the prepared corpus: new, empty or one of `prepare`, and apart from all that is read."""
    seed: int = 1234
    """Seed of the draw of lines that the tokenizer is trained on."""

    def __post_init__(self) -> None:
        check_finite(self)
        require(bool(self.dir), "dir", "''", "must name the directory of the prepared corpus")

    def inputs(self) -> Iterator[tuple[str, str]]:
        """(key, path) of the cache and of every file and directory that is read, except corpus.files."""
        if self.tokenizer.model is not None:
            yield "tokenizer.model", self.tokenizer.model
        if self.curation.quality.model_dir:
            yield "curation.quality.model_dir", self.curation.quality.model_dir
        if self.corpus.debian is not None:
            yield "corpus.debian.cache", self.corpus.debian.cache
        for name, patterns in self.curation.decontamination.benchmarks.items():
            found = (path for pattern in patterns for path in matching_paths(pattern))
            yield from ((f"curation.decontamination.benchmarks.{name}", str(path)) for path in found)
