"""A tiny corpus, prepared once for all tests that only read it."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

from nemotron4_data import Corpus, CorpusConfig, PrepareJob, TokenizerConfig, run_prepare

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_corpus import write_tiny_corpus

# Tests never assert on time: a machine may stop for seconds.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def tiny_job(raw, directory, **changed):
    settings = {"num_workers": 1, "tokenizer": TokenizerConfig(vocab_size=1024), **changed}
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
