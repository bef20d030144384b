"""`nemotron4 data adopt`: make a corpus of token shards that Megatron-LM or NeMo wrote, as they are.

It writes links to the shards and a manifest with their digests. Nothing is tokenised, and nothing is copied except, on
request, shards that lack EOS. Such a corpus has no documents: held-out text is decoded from its tokens.

Invariant: shards are checked in place before anything is written, so that errors name the user's own paths.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron4_common.rules import require

from .prepare_job import SOURCE_PATTERN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .shards import Shard
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
    """Shards of held-out documents, written as in `train`."""
    append_eos: bool = False
    """Copy shards in which documents do not end in EOS, and append it to those documents."""
    check_text: bool = True
    """Refuse shards whose text shows that another tokenizer made them."""

    def __post_init__(self) -> None:
        require(bool(self.dir), "dir", "''", "must name the directory of the new corpus")
        require(bool(self.train), "train", "[]", "must name at least one shard; pass 'train=[english/web:PATH]'")
        for split, shards in (("train", self.train), ("heldout", self.heldout)):
            sources = [source for source, _ in map(_parse, shards)]
            for source, shard in zip(sources, shards, strict=True):
                domain, *parts = source.split("/")
                valid = parts and all(SOURCE_PATTERN.fullmatch(f"{domain}/{part}") for part in parts)
                require(bool(valid), split, shard, "must be SOURCE:PATH with a source such as english/web")
                rule = f"is named twice; give each shard a source such as {source}/1"
                require(sources.count(source) == 1, split, source, rule)


@dataclass
class _Found:
    source: str
    split: str
    stem: Path
    shard: Shard
    missing_eos: NDArray[np.int64]


def adopt(job: AdoptJob) -> None:
    """Check the shards and write the corpus. ValueError for a file that is no shard, or not of this tokenizer."""
    from nemotron4_common.ownership import check_apart, check_new_or_ours
    from nemotron4_common.staging import staged_directory, value_sha256
    from nemotron4_common.terminal import plain_console

    from .corpus import Corpus
    from .manifest import FILE_NAME, TOKENIZER_FILE, Manifest, Stage, files_below, hash_files
    from .tokenizer import Tokenizer
    from .verify import print_table

    directory = Path(job.dir)
    is_free = not (directory / FILE_NAME).exists()
    require(is_free, "dir", job.dir, "already holds a corpus; give another dir, or remove it")
    check_new_or_ours(directory, "dir")
    check_apart(directory, "dir", _inputs(job))
    model = job.tokenizer_model
    require(Path(model).is_file(), "tokenizer_model", model, "no such file; give a SentencePiece tokenizer.model")
    tokenizer = Tokenizer(job.tokenizer_model)
    shards = [_check(job, split, shard, tokenizer) for split, shard in _named(job)]
    manifest = Manifest(name=directory.name, settings=asdict(job))
    with staged_directory(directory, "dir") as staged:
        (staged / TOKENIZER_FILE).parent.mkdir()
        shutil.copyfile(job.tokenizer_model, staged / TOKENIZER_FILE)
        table: dict[str, dict[str, Any]] = {}
        for shard in shards:
            table.setdefault(shard.source, {})[shard.split] = _put(shard, staged / "tokens", tokenizer)
        found: dict[str, tuple[list[Path], dict[str, Any]]] = {
            "documents": ([], {}),
            "tokenizer": ([staged / TOKENIZER_FILE], {"vocab_size": tokenizer.vocab_size}),
            "tokens": (files_below(staged / "tokens"), {"sources": table}),
        }
        for name, (paths, facts) in found.items():
            files, upstream = hash_files(staged, paths), manifest.upstream(name)
            key = value_sha256({"adopted": files, "upstream": upstream})
            manifest.stages[name] = Stage(key=key, upstream=upstream, files=files, facts=facts)
        manifest.save(staged)
    print_table(Corpus.open(directory), None, plain_console())


def _named(job: AdoptJob) -> Iterator[tuple[str, str]]:
    for split, shards in (("train", job.train), ("heldout", job.heldout)):
        for shard in shards:
            yield split, shard


def _parse(shard: str) -> tuple[str, str]:
    """(source, path without suffix) of SOURCE:PATH."""
    source, _, stem = shard.partition(":")
    return source, stem


def _inputs(job: AdoptJob) -> list[tuple[str, str]]:
    """(key, path) of every file that the job reads."""
    shards = [(split, stem) for split in ("train", "heldout") for _, stem in map(_parse, getattr(job, split))]
    files = [(split, stem + suffix) for split, stem in shards for suffix in (".bin", ".idx")]
    return [("tokenizer_model", job.tokenizer_model), *files]


def _check(job: AdoptJob, split: str, named: str, tokenizer: Tokenizer) -> _Found:
    """The shard that SOURCE:PATH names, checked against this tokenizer."""
    from .shard_checks import check_end, check_ids, check_text, without_end
    from .shards import Shard

    source, stem = _parse(named)
    name = f"{split} ({named})"
    for suffix in (".bin", ".idx"):
        target = Path(stem + suffix).absolute()
        require(target.is_file(), split, named, f"no such shard; {target} is missing")
    shard = Shard(Path(stem))
    check_ids(shard, name, tokenizer.vocab_size)
    if job.check_text:
        check_text(shard, name, tokenizer)
    if not job.append_eos:
        check_end(shard, name, tokenizer, "pass append_eos=true to copy the shard with EOS appended to them")
    return _Found(source, split, Path(stem).absolute(), shard, without_end(shard, tokenizer.eos_id))


def _put(found: _Found, directory: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Link a shard into `directory`, or copy it adding missing EOS; returns its sizes for the manifest."""
    from .shard_checks import text_bytes
    from .shards import Shard

    place = directory / f"{found.source}.{found.split}"
    place.parent.mkdir(parents=True, exist_ok=True)
    if len(found.missing_eos):
        _copy_with_eos(found, place, tokenizer)
    else:
        for suffix in (".bin", ".idx"):
            place.with_name(place.name + suffix).symlink_to(found.stem.with_name(found.stem.name + suffix))
    shard = Shard(place)
    return {"documents": len(shard), "tokens": len(shard.tokens), "bytes": text_bytes(shard, tokenizer)}


def _copy_with_eos(found: _Found, place: Path, tokenizer: Tokenizer) -> None:
    """Write the shard, some documents at a time, with EOS appended to those that lack it."""
    import numpy as np

    from .shards import ShardWriter, token_dtype

    dtype = token_dtype(tokenizer.vocab_size)
    writer = ShardWriter(place, dtype)
    offsets = found.shard.offsets
    first = 0
    while first < len(found.shard):
        # As many documents as fit in _TOKENS_AT_ONCE, but at least one.
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _TOKENS_AT_ONCE, side="right")) - 1)
        start, end = np.searchsorted(found.missing_eos, (first, last))
        missing = found.missing_eos[start:end]
        tokens = found.shard.tokens[offsets[first] : offsets[last]].astype(dtype)
        lengths = np.diff(offsets[first : last + 1])
        lengths[missing - first] += 1
        writer.append(
            np.insert(tokens, offsets[missing + 1] - offsets[first], tokenizer.eos_id), lengths.astype(np.int32)
        )
        first = last
    writer.close()
