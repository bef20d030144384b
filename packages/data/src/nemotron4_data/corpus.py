"""A prepared corpus as readers see it: tokens of each source and split, mapped into memory, and the tokenizer.

Invariant: a corpus opens only if its manifest is complete: each stage was made from the one before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron4_common.staging import write_file

from .documents import document_path, read_lines
from .manifest import FILE_NAME, TOKENIZER_FILE, Manifest, check_files
from .shards import Shard
from .tokenizer import Tokenizer

_VERIFIED = ".verified.json"


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
        """Open, checking the tokenizer's digest; with `verify` also every other file (see `verify`).

        ValueError if it is missing, unfinished or damaged.
        """
        directory = Path(directory)
        if not (directory / FILE_NAME).is_file():
            raise ValueError(f"{directory}: not a prepared corpus (it has no {FILE_NAME}); run `nemotron4 prepare`")
        manifest = Manifest.load(directory)
        if not manifest.is_complete:
            raise ValueError(f"{directory}: the corpus is not finished; rerun `nemotron4 prepare`")
        if manifest.changed:
            raise ValueError(
                f"{directory / FILE_NAME}: its digests show that stage {manifest.changed[0]} was changed after it was "
                f"written; put the file back, or make the corpus again"
            )
        check_files(directory, manifest.stages["tokenizer"].files)
        corpus = cls(directory, manifest)
        if verify:
            corpus.verify()
        return corpus

    def verify(self, everything: bool = False, advance: Callable[[int], object] = lambda num_bytes: None) -> None:
        """Hash the files whose size or change time differs from when they were last found intact; or `everything`.

        Files found intact are recorded in .verified.json, so that a launch does not read a large corpus again.
        `advance` gets the size of each file, in bytes, as it is done. ValueError names the first file that differs.
        """
        path = self.dir / _VERIFIED
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not everything else {}
        intact: dict[str, list[Any]] = {}
        for name, digest in self.files.items():
            file = self.dir / name
            status = file.stat() if file.is_file() else None
            # Not the time of modification, which copying tools preserve.
            intact[name] = [digest, status and status.st_size, status and status.st_ctime_ns]
            if status is None or known.get(name) != intact[name]:
                check_files(self.dir, {name: digest})
            advance(status.st_size if status else 0)
        if intact != known:
            with suppress(OSError):  # a corpus may be shared read-only; it is then hashed each time
                write_file(path, json.dumps(intact, indent=1).encode())

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of every file of the corpus, by its path below the directory."""
        return {name: digest for stage in self.manifest.stages.values() for name, digest in stage.files.items()}

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.manifest.name

    @property
    def digest(self) -> str:
        """Digest of all shards, for ledgers and provenance."""
        return self.manifest.digest

    @property
    def manifest_digest(self) -> str:
        """Digest of everything the manifest states about the corpus, for ledgers and provenance."""
        return self.manifest.content_digest

    @property
    def tokenizer_digest(self) -> str:
        """SHA-256 of the tokenizer's file."""
        return self.manifest.stages["tokenizer"].files[TOKENIZER_FILE]

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
        return self.names("train")

    @property
    def heldout_names(self) -> list[str]:
        """Sources that have a held-out split, sorted."""
        return self.names("heldout")

    def names(self, split: str) -> list[str]:
        """Sources that have a split, sorted."""
        return list(self._sizes(split, "tokens"))

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
        return self.shard(source, "train").tokens

    def heldout(self, source: str) -> HeldOut:
        """Held-out documents of a source: tokens with their offsets, and the UTF-8 bytes of each text."""
        shard = self.shard(source, "heldout")
        path = document_path(self.dir / "documents", source, "heldout")
        if path.is_file():
            texts = [json.loads(line)["text"].encode() for line in read_lines(path)]
        else:  # adopted shards come without their text
            texts = [self.tokenizer.decode_bytes(shard[document].tolist()) for document in range(len(shard))]
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

    def shard(self, source: str, split: str) -> Shard:
        """The documents of a source's split as token ids."""
        self._check(source, split)
        if (source, split) not in self._shards:
            self._shards[source, split] = Shard(self.dir / "tokens" / f"{source}.{split}")
        return self._shards[source, split]
