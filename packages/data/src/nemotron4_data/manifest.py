"""The manifest of a prepared corpus: what each stage was made from, what it made, and the digests that link them.

Invariant: a stage counts as done only while its recorded key equals the key computed from its current inputs, and the
key of each stage includes the digest of the stages before it: raw -> documents -> tokenizer -> tokens. Only a corpus
that builds its own raw text has the stage raw. Nor does a stage count that was changed after it was written: its
digests are in the manifest too, and the digest of all content, files and counts, is in the ledgers of runs and in what
they export.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nemotron4_common.staging import file_sha256, value_sha256, write_file

FILE_NAME = "manifest.json"
TOKENIZER_FILE = "tokenizer/tokenizer.model"
REJECTED_FILE = "rejected/records.jsonl.zst"
FORMAT = 1
STAGES = ("raw", "documents", "tokenizer", "tokens")
_OPTIONAL = ("raw",)
DROPPED = "dropped/"
"""Folder of files kept beside the corpus: no stage is made from them, so no key depends on them."""


@dataclass(kw_only=True)
class Stage:
    """One finished stage: key of its inputs, digest of the stages before it, SHA-256 of its files, what it found."""

    key: str
    upstream: str
    files: dict[str, str]
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        """One digest of all its files that later stages may be made from."""
        return value_sha256({name: digest for name, digest in self.files.items() if not name.startswith(DROPPED)})

    @property
    def content(self) -> str:
        """One digest of its files and of everything it found, including counts."""
        return value_sha256({"files": self.files, "facts": self.facts})


@dataclass(kw_only=True)
class Manifest:
    """`manifest.json`. `settings` is the job as it ran; `sources` the table of sizes by source and split.

    `others` are files that this program wrote and no stage lists: rejected records, and those of a stage being rebuilt.
    """

    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Stages that differ from their recorded digests; older manifests record only the digests of files."""
    blend: dict[str, Any] | None = None
    """Weights and epochs under the blend that the corpus was prepared with: no stage depends on it."""

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read it; an empty one if there is none. ValueError if it is damaged or of another format."""
        path = directory / FILE_NAME
        if not path.exists():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            stages = {
                name: Stage(**{field: stage[field] for field in ("key", "upstream", "files", "facts")})
                for name, stage in content["stages"].items()
            }
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            changed = [
                name
                for name, stage in stages.items()
                if content["stages"][name]["digest"] != stage.digest
                or content["stages"][name].get("content", stage.content) != stage.content
            ]
            return cls(
                name=content["name"],
                settings=content["settings"],
                stages=stages,
                others=list(content.get("others", [REJECTED_FILE])),  # not recorded by older versions
                changed=changed,
                blend=content.get("blend"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: not a readable manifest ({error}); move {directory} away and rerun `nemotron4 prepare`"
            ) from error

    def save(self, directory: Path) -> None:
        """Write it atomically."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "digest": self.digest,
            "content_digest": self.content_digest,
            "settings": self.settings,
            "others": self.others,
            "blend": self.blend,
        }
        content["stages"] = {
            name: {"digest": stage.digest, "content": stage.content, **asdict(stage)}
            for name, stage in sorted(self.stages.items(), key=lambda item: STAGES.index(item[0]))
        }
        write_file(
            directory / FILE_NAME,
            json.dumps(content, indent=1, ensure_ascii=False).encode(errors="backslashreplace") + b"\n",
        )

    @property
    def owned(self) -> set[str]:
        """Every file that this program wrote and may remove, except those directly in the directory."""
        return {*self.others, *(name for stage in self.stages.values() for name in stage.files)}

    def forget(self, name: str) -> None:
        """Remove a stage. Its files remain in `owned`."""
        if stage := self.stages.pop(name, None):
            self.others = sorted({*self.others, *stage.files})

    def record(self, name: str, stage: Stage, directory: Path) -> None:
        """Add a stage whose files are now in `directory`."""
        self.stages[name] = stage
        self.others = [other for other in self.others if other not in stage.files and (directory / other).exists()]

    @property
    def is_complete(self) -> bool:
        """Whether every stage is done and was made from the one before it."""
        return all(
            self.stages[name].upstream == self.upstream(name) if name in self.stages else name in _OPTIONAL
            for name in STAGES
        )

    def upstream(self, name: str) -> str:
        """Digest of the current state of all stages before `name`."""
        before = [self.stages[stage] for stage in STAGES[: STAGES.index(name)] if stage in self.stages]
        return value_sha256([stage.digest for stage in before])

    @property
    def digest(self) -> str:
        """Identifies the token content of the corpus; empty until it is complete."""
        return self.stages["tokens"].digest if self.is_complete else ""

    @property
    def content_digest(self) -> str:
        """Identifies all files of the corpus and everything found about them; independent of settings and code."""
        return value_sha256({name: [stage.digest, stage.facts] for name, stage in self.stages.items()})


def files_below(directory: Path) -> list[Path]:
    """All files in `directory` and its subfolders, including names with dots, sorted."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def hash_files(directory: Path, paths: list[Path]) -> dict[str, str]:
    """SHA-256 of files by their paths below `directory`, sorted."""
    return {path.relative_to(directory).as_posix(): file_sha256(path) for path in sorted(paths)}


def check_files(directory: Path, files: dict[str, str]) -> None:
    """ValueError naming the first file that is missing or whose digest is not the recorded one."""
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise ValueError(f"{path}: missing; rerun `nemotron4 prepare`")
        found = file_sha256(path)
        if found != expected:
            raise ValueError(
                f"{path}: SHA-256 is {found} but the manifest says {expected}: "
                f"the file was damaged or changed; rerun `nemotron4 prepare`"
            )
