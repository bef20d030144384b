"""A corpus's held-out text, and what a model, gzip and xz need for it.

Invariant: the model, gzip and xz are measured on the same bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nemotron4_data import Corpus, Tokenizer
from nemotron4_eval.eval_job import EvalJob
from nemotron4_eval.heldout.bits_per_byte import score_heldout
from nemotron4_eval.heldout.compressors import compressor_table, gzip_bits_per_byte, xz_bits_per_byte
from nemotron4_eval.heldout.heldout_continuation import make_items, write_task
from nemotron4_eval.heldout.result import BitsResult
from nemotron4_eval.heldout.text import HeldoutText, read_heldout
from nemotron4_eval.suites.config import SuiteConfig
from nemotron4_infer import LoadedModel
from nemotron4_infer.likelihood import Progress

HELDOUT_CONTINUATION = "heldout_continuation"


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """What is read of a corpus."""

    corpus: Corpus
    texts: list[HeldoutText]


def open_heldout(job: EvalJob, tokenizer: Tokenizer) -> Heldout:
    """The held-out text of the job's corpus; ValueError if the model cannot read its tokens."""
    corpus = Corpus.open(job.data.dir)
    if tokenizer.sha256 != corpus.tokenizer.sha256:
        raise ValueError(
            f"model_dir ({job.model_dir}): has a different tokenizer from data.dir ({job.data.dir}), so it cannot read "
            "its tokens; give the corpus the model was trained on, or one prepared with the same tokenizer"
        )
    return Heldout(corpus=corpus, texts=read_heldout(corpus, job.suite.max_bytes_per_source))


def measure(job: EvalJob, loaded: LoadedModel, heldout: Heldout, progress: Progress) -> BitsResult:
    """Bits per byte of the text."""
    measured = score_heldout(
        loaded.model,
        heldout.texts,
        loaded.tokenizer.eos_id,
        window=job.suite.window_tokens,
        stride=job.suite.stride_tokens,
        device=loaded.device,
        progress=progress,
    )
    return {
        "bits_per_byte": {"overall": measured.overall, **measured.domains, "sources": measured.sources},
        "gzip_bits_per_byte": compressor_table(heldout.texts, gzip_bits_per_byte),
        "xz_bits_per_byte": compressor_table(heldout.texts, xz_bits_per_byte),
        "tokens": measured.num_tokens,
        "bytes": sum(measured.num_bytes.values()),
        "corpus": job.data.dir,
        "corpus_digest": heldout.corpus.digest,
    }


@contextmanager
def named_tasks(suite: SuiteConfig, heldout: Heldout | None) -> Iterator[list[str]]:
    """suite.tasks, with a file in the place of heldout_continuation, which exists only while the body runs."""
    with TemporaryDirectory() as directory:
        names = list(suite.tasks)
        if heldout is not None and HELDOUT_CONTINUATION in names:
            items = make_items(heldout.texts, num_items=suite.num_items, seed=suite.seed)
            names[names.index(HELDOUT_CONTINUATION)] = str(write_task(items, Path(directory)))
        yield names
