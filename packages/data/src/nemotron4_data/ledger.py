"""The ledger of a run: what a checkpoint has read, by source, with a digest of the whole sequence of its samples.

It records all that it depends on (seed, digests of corpus and tokenizer, the timeline up to it), so anyone with the
corpus can recompute it: `nemotron4 data verify ledger=PATH`.

Invariant: a ledger is a function of (corpus, seed, timeline, samples), wherever earlier checkpoints were made. Its
digest is a chain over chunks of 65,536 samples, so the next ledger costs only the samples since the last one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .corpus import Corpus
from .stream import StreamPhase, TokenStream

FILE_NAME = "ledger.json"
_CHUNK_SAMPLES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What the first `samples` samples of a timeline hold."""

    samples: int
    tokens: int
    """(input, target) pairs, over all sources."""
    seed: int
    shuffle_block_tokens: int
    corpus: str
    """Digest of the corpus's shards."""
    tokenizer: str
    """SHA-256 of the tokenizer's file."""
    timeline: list[dict[str, Any]]
    """Phases up to here, merged where blend and sequence length stay the same: fields of `StreamPhase`."""
    sources: dict[str, dict[str, float]]
    """By source: `tokens` drawn, `epochs`, and `documents`, the number of documents that these tokens amount to."""
    chunks: str
    """Digest of the complete chunks of samples, which the next ledger continues."""
    sequence: str
    """Digest of all samples: source and position of each, in order."""
    manifest: str | None = None
    """Digest of everything the manifest states about the corpus; older ledgers have none."""

    def to_json(self) -> bytes:
        """The ledger as a file."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """Read one. ValueError if it is missing or not a ledger."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such ledger; a checkpoint directory holds one as {FILE_NAME}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not a ledger ({error}); give one that a checkpoint holds") from error

    def stream(self, corpus: Corpus) -> TokenStream:
        """The stream that led here. ValueError if the corpus is a different one."""
        digests = {"tokenizer": corpus.tokenizer_digest, "corpus": corpus.digest, "manifest": corpus.manifest_digest}
        for name, found in digests.items():
            if getattr(self, name) not in (found, None):
                raise ValueError(
                    f"{corpus.dir}: digest of the {name} is {found[:12]}, but the ledger was made with "
                    f"{getattr(self, name)[:12]}; give the directory of the corpus that the run read"
                )
        phases = [StreamPhase(**phase) for phase in self.timeline]
        return TokenStream(corpus, phases, self.seed, self.shuffle_block_tokens)


def make_ledger(
    stream: TokenStream,
    corpus: Corpus,
    samples: int,
    previous: Ledger | None = None,
    advance: Callable[[int], object] = lambda samples: None,
) -> Ledger:
    """The ledger of samples [0, samples); continues `previous` if that leads here, otherwise starts at sample 0.

    `advance` gets the number of samples as they are digested.
    """
    timeline = [asdict(phase) for phase in stream.timeline(samples)]
    first, chunks = 0, _link("", repr((stream.source_names, stream.seed, stream.shuffle_block_tokens)).encode())
    if previous is not None and _leads_to(previous, stream, corpus, samples):
        first, chunks = previous.samples - previous.samples % _CHUNK_SAMPLES, previous.chunks
        advance(first)
    while samples - first >= _CHUNK_SAMPLES:
        chunks = _link(chunks, stream.entries(first, first + _CHUNK_SAMPLES).tobytes())
        first += _CHUNK_SAMPLES
        advance(_CHUNK_SAMPLES)
    sequence = _link(chunks, stream.entries(first, samples).tobytes())
    advance(samples - first)
    return Ledger(
        samples=samples,
        tokens=sum(phase["num_samples"] * phase["sequence_length"] for phase in timeline),
        seed=stream.seed,
        shuffle_block_tokens=stream.shuffle_block_tokens,
        corpus=corpus.digest,
        tokenizer=corpus.tokenizer_digest,
        timeline=timeline,
        sources=_sources(stream, corpus, samples),
        chunks=chunks,
        sequence=sequence,
        manifest=corpus.manifest_digest,
    )


def first_difference(recorded: Any, found: Any, key: str = "") -> str | None:
    """Where two JSON values first differ, as "key is A in the ledger, B when recomputed"; None if they are equal."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        pairs = [(f"{key}.{name}".lstrip("."), recorded.get(name), found.get(name)) for name in {**recorded, **found}]
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        pairs = [(f"{key}[{index}]", *pair) for index, pair in enumerate(zip(recorded, found, strict=True))]
    else:
        return None if recorded == found else f"{key} is {recorded} in the ledger, {found} when recomputed"
    return next((text for name, old, new in pairs if (text := first_difference(old, new, name))), None)


def _leads_to(previous: Ledger, stream: TokenStream, corpus: Corpus, samples: int) -> bool:
    before = [asdict(phase) for phase in stream.timeline(min(previous.samples, samples))]
    rests_on = (previous.seed, previous.shuffle_block_tokens, previous.corpus, previous.timeline)
    return rests_on == (stream.seed, stream.shuffle_block_tokens, corpus.digest, before)


def _sources(stream: TokenStream, corpus: Corpus, samples: int) -> dict[str, dict[str, float]]:
    epochs = stream.epochs(samples)
    found: dict[str, dict[str, float]] = {}
    for name, tokens in stream.positions(samples).items():
        size = corpus.sizes(name)
        documents = tokens * size["documents"] // size["tokens"]
        found[name] = {"tokens": tokens, "documents": documents, "epochs": epochs[name]}
    return found


def _link(before: str, content: bytes) -> str:
    return hashlib.sha256(before.encode() + content).hexdigest()
