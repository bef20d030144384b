"""`nemotron4 data adopt`: make a corpus of token shards that Megatron-LM or NeMo wrote, as they are.

Links to the shards and a manifest with their digests are written; nothing is tokenised or copied. Such a corpus has
no documents: held-out text is what its tokens decode to.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .prepare_job import SOURCE_PATTERN

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

_TOKENS_AT_ONCE = 1 << 22


@dataclass(kw_only=True)
class AdoptJob:
    """Which shards become a corpus, and the tokenizer that they were made with."""

    dir: str
    """Directory of the new corpus: absent or empty, and apart from the shards."""
    tokenizer_model: str
    """The SentencePiece tokenizer.model that the shards were made with."""
    train: list[str]
    """SOURCE:PATH of each shard, without .bin and .idx; a source is domain/category, or deeper."""
    heldout: list[str] = field(default_factory=list)
    """The same for held-out documents."""

    def __post_init__(self) -> None:
        if not self.dir:
            raise ValueError("dir ('') must name the directory of the new corpus")
        if not self.train:
            raise ValueError("train ([]) must name at least one shard: pass 'train=[english/web:PATH]'")
        for split, shards in (("train", self.train), ("heldout", self.heldout)):
            sources = [source for source, _ in map(_parse, shards)]
            for source, shard in zip(sources, shards, strict=True):
                domain, *parts = source.split("/")
                if not parts or not all(SOURCE_PATTERN.fullmatch(f"{domain}/{part}") for part in parts):
                    raise ValueError(f"{split} ({shard}) must be SOURCE:PATH with a source such as english/web")
                if sources.count(source) > 1:
                    raise ValueError(f"{split} names {source} twice: give each shard a source such as {source}/1")


def adopt(job: AdoptJob) -> None:
    """Write the corpus and check it. ValueError for a shard that is not one, or not of this tokenizer."""
    from .manifest import FILE_NAME, TOKENIZER_FILE, Manifest, Stage, hash_files
    from .ownership import check_apart, check_new_or_ours
    from .staging import staged_directory, value_sha256
    from .tokenizer import Tokenizer
    from .verify import VerifyJob, verify

    directory = Path(job.dir)
    if (directory / FILE_NAME).exists():
        raise ValueError(f"dir ({job.dir}): holds a corpus already: give another dir, or remove it")
    check_new_or_ours(directory, "dir")
    check_apart(directory, "dir", _inputs(job))
    manifest = Manifest(name=directory.name, settings=asdict(job))
    with staged_directory(directory, "dir") as staged:
        (staged / TOKENIZER_FILE).parent.mkdir()
        shutil.copyfile(job.tokenizer_model, staged / TOKENIZER_FILE)
        tokenizer = Tokenizer(staged / TOKENIZER_FILE)
        table = _link(job, staged, tokenizer)
        found: dict[str, tuple[list[Path], dict[str, Any]]] = {
            "documents": ([], {}),
            "tokenizer": ([staged / TOKENIZER_FILE], {"vocab_size": tokenizer.vocab_size}),
            "tokens": (sorted((staged / "tokens").rglob("*.*")), {"sources": table}),
        }
        for name, (paths, facts) in found.items():
            files, upstream = hash_files(staged, paths), manifest.upstream(name)
            key = value_sha256({"adopted": files, "upstream": upstream})
            manifest.stages[name] = Stage(key=key, upstream=upstream, files=files, facts=facts)
        manifest.save(staged)
        verify(VerifyJob(dir=str(staged)))


def _parse(shard: str) -> tuple[str, str]:
    """(source, path without suffix) of SOURCE:PATH."""
    source, _, stem = shard.partition(":")
    return source, stem


def _inputs(job: AdoptJob) -> list[tuple[str, str]]:
    """(key, path) of every file that the job reads."""
    shards = [(split, stem) for split in ("train", "heldout") for _, stem in map(_parse, getattr(job, split))]
    files = [(split, stem + suffix) for split, stem in shards for suffix in (".bin", ".idx")]
    return [("tokenizer_model", job.tokenizer_model), *files]


def _link(job: AdoptJob, directory: Path, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """Link every shard into `directory`/tokens; returns the manifest's table of sizes."""
    from .shards import Shard

    table: dict[str, dict[str, Any]] = {}
    for split, shards in (("train", job.train), ("heldout", job.heldout)):
        for source, stem in map(_parse, shards):
            link = directory / "tokens" / f"{source}.{split}"
            link.parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".bin", ".idx"):
                target = Path(stem + suffix).absolute()
                if not target.is_file():
                    raise ValueError(f"{split} ({source}:{stem}): no such shard: {target} is missing")
                link.with_name(link.name + suffix).symlink_to(target)
            shard = Shard(link)
            num_bytes = sum(
                # Clipped: verifying, below, refuses an id that this tokenizer does not have, and names it.
                int(tokenizer.num_bytes.take(shard.tokens[first : first + _TOKENS_AT_ONCE], mode="clip").sum())
                for first in range(0, len(shard.tokens), _TOKENS_AT_ONCE)
            )
            sizes = {"documents": len(shard), "tokens": len(shard.tokens), "bytes": num_bytes}
            table.setdefault(source, {})[split] = sizes
    return table
