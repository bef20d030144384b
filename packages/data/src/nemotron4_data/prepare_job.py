"""The job of `nemotron4 prepare`: which text, which tokenizer, and where the corpus goes. Sizes are bytes or tokens.

Light on purpose: composing and printing a job imports nothing but the standard library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SOURCE_PATTERN = re.compile(r"[A-Za-z0-9_][\w.+#-]*/[A-Za-z0-9_][\w.+#-]*", re.ASCII)


@dataclass(kw_only=True)
class CorpusConfig:
    """Where the raw text lies and how records without a source or split are filed."""

    name: str
    """Name of the corpus; by default also of its directory."""
    files: list[str]
    """JSONL files as globs (.jsonl, also .gz, .xz, .zst); package://sample is the shipped corpus."""
    source: str = "english/documents"
    """domain/category of records that name no source."""
    heldout_fraction: float = 0.01
    """Share of documents held out where a record names no split, chosen by a hash of its id."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", self.name, re.ASCII):
            raise ValueError(f"corpus.name ({self.name!r}) must be letters, digits, '_', '-' and '.': rename it")
        if not self.files:
            raise ValueError("corpus.files ([]) must name at least one file or glob: pass corpus.files=[PATH,...]")
        if not SOURCE_PATTERN.fullmatch(self.source):
            raise ValueError(f"corpus.source ({self.source!r}) must be domain/category, as in english/documents")
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"corpus.heldout_fraction ({self.heldout_fraction}) must be at least 0 and below 1")


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


@dataclass(kw_only=True)
class PrepareJob:
    """Turn raw text into documents, a tokenizer, token shards and a manifest that links them."""

    corpus: CorpusConfig
    """The raw text."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer."""
    dir: str
    """Directory of the prepared corpus."""
    num_workers: int = 0
    """Processes that tokenise; 0 is one a core, 1 stays in this process."""
    seed: int = 1234
    """Draws the lines that the tokenizer is trained on."""

    def __post_init__(self) -> None:
        if not self.dir:
            raise ValueError("dir ('') must name the directory of the prepared corpus")
        if self.num_workers < 0:
            raise ValueError(f"num_workers ({self.num_workers}) must be 0 (one a core) or more")
