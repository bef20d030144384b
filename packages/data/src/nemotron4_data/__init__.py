"""Text to tokens: documents, tokenizer, shards, and the blended, resumable order of a pretraining run."""

from .blend import BlendConfig, Distribution, EpochsRow, Sampling, epochs_table, expand, phase_weights, render_epochs
from .corpus import Corpus, HeldOut
from .prepare import run_prepare
from .prepare_job import ColumnsConfig, CorpusConfig, ExecutorConfig, ExecutorKind, PrepareJob, TokenizerConfig
from .stream import SampleBatch, StreamPhase, TokenStream
from .tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "BlendConfig",
    "ColumnsConfig",
    "Corpus",
    "CorpusConfig",
    "Distribution",
    "EpochsRow",
    "ExecutorConfig",
    "ExecutorKind",
    "HeldOut",
    "PrepareJob",
    "SampleBatch",
    "Sampling",
    "StreamDecoder",
    "StreamPhase",
    "TokenStream",
    "Tokenizer",
    "TokenizerConfig",
    "epochs_table",
    "expand",
    "phase_weights",
    "render_epochs",
    "run_prepare",
]
