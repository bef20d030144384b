"""A prepared corpus as readers see it: tokens of each source and split, mapped into memory, and the tokenizer.

Invariant: a corpus opens only when its manifest is complete: each stage was made from the one before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .documents import document_path, read_lines
from .manifest import FILE_NAME, TOKENIZER_FILE, Manifest, check_files
from .shards import Shard
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents of one source: document d has tokens[offsets[d]:offsets[d + 1]] (EOS last) and texts[d]."""

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    texts: list[bytes]

    def __len__(self) -> int:
        return len(self.texts)


class Corpus:
    """A directory that `nemotron4 prepare` finished. Open it with `Corpus.open`."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        assert manifest.is_complete
        self.dir = directory
        self.manifest = manifest
        self._shards: dict[tuple[str, str], Shard] = {}

    @classmethod
    def open(cls, directory: str | Path, verify: bool = False) -> Corpus:
        """Open; with `verify` also hash every file. ValueError when it is absent, unfinished or damaged."""
        directory = Path(directory)
        if not (directory / FILE_NAME).is_file():
            raise ValueError(f"{directory}: no prepared corpus (it has no {FILE_NAME}): run `nemotron4 prepare`")
        manifest = Manifest.load(directory)
        if not manifest.is_complete:
            raise ValueError(f"{directory}: the corpus is not finished: rerun `nemotron4 prepare`")
        corpus = cls(directory, manifest)
        if verify:
            corpus.verify()
        return corpus

    def verify(self) -> None:
        """Hash every document file, the tokenizer and every shard. ValueError names the first that differs."""
        for stage in self.manifest.stages.values():
            check_files(self.dir, stage.files)

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.manifest.name

    @property
    def digest(self) -> str:
        """Digest of all shards, for ledgers and provenance."""
        return self.manifest.digest

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this corpus."""
        return Tokenizer(self.dir / TOKENIZER_FILE)

    @property
    def vocab_size(self) -> int:
        """Pieces of the tokenizer, without loading it."""
        return int(self.manifest.stages["tokenizer"].facts["vocab_size"])

    @property
    def source_names(self) -> list[str]:
        """Sources that have a training split, sorted."""
        return list(self.num_train_tokens)

    @property
    def heldout_names(self) -> list[str]:
        """Sources that have a held-out split, sorted."""
        return list(self._sizes("heldout", "tokens"))

    @property
    def num_train_tokens(self) -> dict[str, int]:
        """Training tokens of each source, EOS included."""
        return self._sizes("train", "tokens")

    def sizes(self, source: str, split: str = "train") -> dict[str, int]:
        """`documents`, `bytes` (UTF-8 bytes of the texts) and `tokens` of a source's split."""
        self._check(source, split)
        return dict(self._table[source][split])

    def train(self, source: str) -> NDArray[Any]:
        """All training tokens of a source, documents one after the other, mapped from disk."""
        return self._shard(source, "train").tokens

    def heldout(self, source: str) -> HeldOut:
        """Held-out documents of a source: tokens with their offsets, and the UTF-8 bytes of each text."""
        shard = self._shard(source, "heldout")
        path = document_path(self.dir / "documents", source, "heldout")
        texts = [json.loads(line)["text"].encode() for line in read_lines(path)]
        return HeldOut(shard.tokens, shard.offsets, texts)

    def heldout_bytes(self, source: str) -> bytes:
        """The held-out texts of a source, concatenated: what a compressor is measured on."""
        return b"".join(self.heldout(source).texts)

    @property
    def _table(self) -> dict[str, dict[str, dict[str, int]]]:
        table: dict[str, dict[str, dict[str, int]]] = self.manifest.stages["tokens"].facts["sources"]
        return table

    def _sizes(self, split: str, field: str) -> dict[str, int]:
        return {source: splits[split][field] for source, splits in sorted(self._table.items()) if split in splits}

    def _check(self, source: str, split: str) -> None:
        if split not in self._table.get(source, {}):
            raise ValueError(
                f"{self.dir}: no {split} split of source {source!r}; it has {', '.join(self._sizes(split, 'tokens'))}"
            )

    def _shard(self, source: str, split: str) -> Shard:
        self._check(source, split)
        if (source, split) not in self._shards:
            self._shards[source, split] = Shard(self.dir / "tokens" / f"{source}.{split}")
        return self._shards[source, split]
