"""`nemotron4 data verify`: checks a corpus against its manifest, and a run's ledger or a model's provenance against it.

Invariant: what is checked is computed from the files, never taken from the record of an earlier check.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron4_common.rules import require

from .data_config import DataDirConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from .corpus import Corpus


@dataclass(kw_only=True)
class VerifyJob:
    """What to check. Nothing is changed."""

    data: DataDirConfig = field(default_factory=DataDirConfig)
    """The corpus."""
    ledger: str | None = None
    """The ledger.json of a checkpoint that read this corpus; it is computed again and compared."""
    run: str | None = None
    """A run directory, such as runs/demo/latest; the ledger of its newest checkpoint is checked."""
    model_dir: str | None = None
    """An exported model, whose provenance.json names the corpus that it was trained on."""

    def __post_init__(self) -> None:
        if self.ledger is not None and self.run is not None:
            raise ValueError(f"ledger ({self.ledger}) and run ({self.run}): name two ledgers; give one of them")


def verify(job: VerifyJob) -> None:
    """Check, and print a table. ValueError names the first mismatch."""
    from rich.progress import Progress

    from nemotron4_common.terminal import plain_console

    from .corpus import Corpus
    from .ledger import Ledger

    ledger = _ledger_path(job)
    if ledger is not None:
        Ledger.load(ledger)  # raises for an unreadable one before everything is hashed
    corpus = Corpus.open(job.data.dir)
    notes = [] if job.model_dir is None else _check_provenance(corpus, Path(job.model_dir) / "provenance.json")
    console = plain_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum((corpus.dir / name).stat().st_size for name in corpus.files if (corpus.dir / name).is_file())
        task = progress.add_task("files", total=total)
        corpus.verify(everything=True, advance=lambda num_bytes: progress.advance(task, num_bytes))
        _check_shards(corpus, progress)
        if ledger is not None:
            notes += _check_ledger(corpus, ledger, progress)
    print_table(corpus, ledger, plain_console())
    for note in notes:
        console.print(note, soft_wrap=True)


def _ledger_path(job: VerifyJob) -> Path | None:
    from .ledger import FILE_NAME

    if job.run is None:
        return None if job.ledger is None else Path(job.ledger)
    found = sorted(Path(job.run).glob(f"checkpoints/step-*/{FILE_NAME}"))
    require(bool(found), "run", job.run, f"no checkpoint with a {FILE_NAME}; name a run that has saved one")
    return found[-1]


def _check_shards(corpus: Corpus, progress: Progress) -> None:
    """Check index, counts, token ids and ends of documents of every shard."""
    from .shard_checks import check_end, check_ids, text_bytes

    shards = [(source, split) for split in ("train", "heldout") for source in corpus.names(split)]
    for source, split in progress.track(shards, description="shards"):
        shard, recorded = corpus.shard(source, split), corpus.sizes(source, split)
        name = f"{corpus.dir}/tokens/{source}.{split}"
        check_ids(shard, name, corpus.vocab_size)
        check_end(shard, name, corpus.tokenizer, "prepare the corpus again, or adopt the shards with append_eos=true")
        found = {"documents": len(shard), "tokens": len(shard.tokens)}
        if not recorded.get("not_exact"):  # otherwise tokens do not give the bytes of the texts
            found["bytes"] = text_bytes(shard, corpus.tokenizer)
        for counted, count in found.items():
            if count != recorded[counted]:
                raise ValueError(
                    f"{name}: {count} {counted}, but the manifest says {recorded[counted]}; prepare the corpus again"
                )


def _check_provenance(corpus: Corpus, path: Path) -> list[str]:
    """Check that the model was trained on this corpus. Returns what could not be compared."""
    way_out = "give a directory that `nemotron4 export` made"
    require(path.is_file(), "model_dir", path.parent, f"has no {path.name}; {way_out}")
    try:
        provenance = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the provenance of a model ({error}); export the model again") from error
    for name, found in (("corpus", corpus.digest), ("manifest", corpus.manifest_digest)):
        recorded = provenance.get(f"{name}_digest")
        if recorded not in (found, None):
            raise ValueError(
                f"{path}: digest of the {name} is {str(recorded)[:12]}, but that of {corpus.dir} is {found[:12]}; "
                f"give the directory of the corpus that the model was trained on"
            )
    return [] if provenance.get("manifest_digest") else [_older(path)]


def _older(path: Path) -> str:
    return f"{path} is of an older version, without the manifest's digest: counts were compared with the corpus alone"


def _check_ledger(corpus: Corpus, path: Path, progress: Progress) -> list[str]:
    """Recompute the ledger from this corpus and compare. Returns what could not be compared."""
    from .ledger import Ledger, first_difference, make_ledger

    recorded = Ledger.load(path)
    stream = recorded.stream(corpus)
    if stream.num_samples != recorded.samples:
        raise ValueError(f"{path}: samples is {recorded.samples}, but its timeline has {stream.num_samples}")
    task = progress.add_task("ledger", total=recorded.samples)
    found = make_ledger(stream, corpus, recorded.samples, advance=lambda samples: progress.advance(task, samples))
    if recorded.manifest is None:
        found = replace(found, manifest=None)
    if difference := first_difference(asdict(recorded), asdict(found)):
        raise ValueError(f"{path}: {difference}")
    return [_older(path)] if recorded.manifest is None else []


def print_table(corpus: Corpus, ledger_path: Path | None, console: Console) -> None:
    """The sizes of the sources, and the tokens and epochs of each that the ledger records."""
    from rich.table import Table

    from .ledger import Ledger

    ledger = Ledger.load(ledger_path) if ledger_path else None
    table = Table("source", title=f"{corpus.name} in {corpus.dir}", title_justify="left")
    for heading in ("documents", "tokens", "held-out tokens", *(("tokens read", "epochs") if ledger else ())):
        table.add_column(heading, justify="right")
    heldout = set(corpus.names("heldout"))
    for source in corpus.names("train"):
        sizes = corpus.sizes(source)
        row = [f"{sizes['documents']:,}", f"{sizes['tokens']:,}"]
        row.append(f"{corpus.sizes(source, 'heldout')['tokens']:,}" if source in heldout else "")
        if ledger:
            row += [f"{ledger.sources[source]['tokens']:,}", f"{ledger.sources[source]['epochs']:.3f}"]
        table.add_row(source, *row)
    console.print(table)
    console.print(f"{len(corpus.files):,} files match the manifest; corpus {corpus.digest[:12]}")
    if ledger:
        console.print(f"{ledger.samples:,} samples match the ledger {ledger_path}; digest {ledger.sequence[:12]}")
