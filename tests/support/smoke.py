"""A prepared tiny corpus and a training job of seconds over it, for tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiny_corpus import SOURCES, write_tiny_corpus
from verb import nemotron4

from nemotron4_data import CorpusConfig, ExecutorConfig, PrepareJob, TokenizerConfig, run_prepare
from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_model import ModelConfig
from nemotron4_train.job import DataConfig, RunConfig, TrainerConfig, TrainJob
from nemotron4_train.launcher_config import LauncherConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape

VOCAB_SIZE = 1_024


def prepare_tiny(
    directory: Path, sources: Sequence[str] = SOURCES, num_documents: int = 480, vocab_size: int = VOCAB_SIZE
) -> Path:
    """Write and prepare a tiny corpus; returns the prepared directory."""
    write_tiny_corpus(directory / "raw", num_documents=num_documents, sources=sources)
    prepared = directory / "prepared"
    run_prepare(
        PrepareJob(
            dir=str(prepared),
            executor=ExecutorConfig(num_workers=1),
            corpus=CorpusConfig(name="tiny", files=[f"{directory}/raw/*.jsonl"]),
            tokenizer=TokenizerConfig(vocab_size=vocab_size),
        )
    )
    return prepared


def run(job: TrainJob) -> Path:
    """Launch a job that names no run.dir; returns its run's directory."""
    launch(job, "# job\n")
    return (Path(job.run.root) / job.run.name / "latest").resolve()


def tiny_workspace(directory: Path) -> Path:
    """A tiny corpus prepared by the command line, in a working directory as a user would have it; returns that."""
    write_tiny_corpus(directory / "raw", num_documents=480)
    files = ("corpus=files", "corpus.name=tiny", "corpus.files=[raw/*.jsonl]")
    nemotron4("prepare", *files, f"tokenizer.vocab_size={VOCAB_SIZE}", cwd=directory)
    return directory


def smoke_schedule() -> Schedule:
    """Warm-up, a larger batch, another blend: 12 steps."""
    return Schedule(
        shuffle_block_tokens=64,
        phases={
            "warmup": Phase(
                tokens=4 * 4 * 32,
                blend="pretraining",
                global_batch_size=4,
                sequence_length=32,
                learning_rate=LearningRate(shape=Shape.linear, end_fraction=1.0),
            ),
            "main": Phase(
                tokens=4 * 8 * 32,
                blend="pretraining",
                global_batch_size=8,
                sequence_length=32,
                learning_rate=LearningRate(shape=Shape.cosine, end_fraction=0.1),
            ),
            "continued": Phase(
                tokens=4 * 8 * 32,
                blend="continued",
                global_batch_size=8,
                sequence_length=32,
                learning_rate=LearningRate(shape=Shape.cosine, end_fraction=0.001),
            ),
        },
    )


def smoke_job(prepared: Path, root: Path, **changes: object) -> TrainJob:
    """A 12-step job of a 2-layer model; `changes` replace fields of TrainJob."""
    fields: dict[str, object] = {
        "run": RunConfig(name="smoke", root=str(root)),
        "data": DataConfig(dir=str(prepared)),
        "model": ModelConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            intermediate_size=64,
            num_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_sequence_length=64,
        ),
        "blend": BlendConfig(
            distributions={
                "pretraining": Distribution(weights={"english": 0.7, "multilingual": 0.15, "code": 0.15}),
                "continued": Distribution(weights={"english": 0.3, "multilingual": 0.2, "code": 0.5}),
            }
        ),
        "schedule": smoke_schedule(),
        "launcher": LauncherConfig(num_threads=1),
        "trainer": TrainerConfig(save_interval_steps=4, validation_interval_steps=6, validation_bytes_per_source=300),
    }
    return TrainJob(**(fields | changes))  # type: ignore[arg-type]
