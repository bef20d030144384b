"""A tiny corpus, prepared once for all tests that only read it."""

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from nemotron4_data import Corpus, CorpusConfig, ExecutorConfig, PrepareJob, TokenizerConfig, run_prepare

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_corpus import write_tiny_corpus

settings.register_profile("no deadline", deadline=None)  # tests never assert on time
settings.load_profile("no deadline")


def tiny_job(raw, directory, **changed):
    settings = {"executor": ExecutorConfig(num_workers=1), "tokenizer": TokenizerConfig(vocab_size=1024), **changed}
    settings.setdefault("corpus", CorpusConfig(name="tiny", files=[f"{raw}/*.jsonl"]))
    return PrepareJob(dir=str(directory), **settings)


@pytest.fixture(scope="session")
def make_job():
    return tiny_job


@pytest.fixture(scope="session")
def raw_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("raw")
    write_tiny_corpus(directory)
    return directory


@pytest.fixture(scope="session")
def corpus(raw_directory, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    run_prepare(tiny_job(raw_directory, directory))
    return Corpus.open(directory, verify=True)


@pytest.fixture(scope="session")
def tokenizer(corpus):
    return corpus.tokenizer


@pytest.fixture
def prepared(corpus, tmp_path):
    """A copy of the prepared corpus that a test may damage."""
    return shutil.copytree(corpus.dir, tmp_path / "prepared")
