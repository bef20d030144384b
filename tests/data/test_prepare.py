"""`nemotron4 prepare` end to end on a tiny corpus: what it makes, bad records, impossible requests."""

import errno
import gzip
import json
import lzma

import numpy as np
import pytest
import zstandard
from messages import message_of
from raw_files import write_raw

from nemotron4_data import (
    Corpus,
    CorpusConfig,
    StreamPhase,
    TokenizerConfig,
    TokenStream,
    expand,
    run_prepare,
)
from nemotron4_data import prepare as prepare_module
from nemotron4_data.adopt import AdoptJob, adopt
from nemotron4_data.blend import Distribution
from nemotron4_data.curation.config import CurationConfig, DecontaminationConfig, QualityConfig
from nemotron4_data.documents import read_lines


def test_every_document_is_there_exactly(corpus, raw_directory):
    records = [
        json.loads(line)
        for path in sorted(raw_directory.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").split("\n")
        if line
    ]
    eos = corpus.tokenizer.eos_id
    for source in corpus.source_names:
        for split, tokens in (("train", corpus.train(source)), ("heldout", corpus.heldout(source).tokens)):
            texts = [r["text"] for r in records if (r["source"], r["split"]) == (source, split)]
            expected = [token for text in texts for token in [*corpus.tokenizer.encode(text), eos]]
            assert tokens.tolist() == expected
            assert tokens.dtype == np.uint16
            num_bytes = sum(len(text.encode()) for text in texts)
            sizes = {
                "documents": len(texts),
                "bytes": num_bytes,
                "tokens": len(tokens),
                **dict.fromkeys(("not_exact", "control_text"), 0),
            }
            assert corpus.sizes(source, split) == sizes


def test_a_domain_may_have_a_dot(corpus, tmp_path, make_job):
    write_raw(tmp_path / "raw/a.jsonl", {"text": "some words", "source": "en.us/web", "split": "train"})
    tokenizer = TokenizerConfig(model=str(corpus.tokenizer.path))
    run_prepare(make_job(tmp_path / "raw", tmp_path / "out", tokenizer=tokenizer))
    made = Corpus.open(tmp_path / "out", verify=True)
    assert made.source_names == ["en.us/web"]
    stem = f"en.us/web:{made.dir}/tokens/en.us/web.train"
    adopt(AdoptJob(dir=str(tmp_path / "adopted"), train=[stem], tokenizer_model=str(corpus.tokenizer.path)))
    adopted = Corpus.open(tmp_path / "adopted", verify=True)
    assert adopted.train("en.us/web").tolist() == made.train("en.us/web").tolist()


def test_heldout_gives_tokens_and_bytes(corpus):
    assert corpus.heldout_names == corpus.source_names
    heldout = corpus.heldout("multilingual/el")
    for number, text in enumerate(heldout.texts):
        tokens = heldout.tokens[heldout.offsets[number] : heldout.offsets[number + 1]].tolist()
        assert tokens[-1] == corpus.tokenizer.eos_id
        assert corpus.tokenizer.decode_bytes(tokens) == text
    assert corpus.heldout_bytes("multilingual/el") == b"".join(heldout.texts)
    assert len(heldout) == 3


def test_a_stream_reads_the_corpus(corpus):
    weights = expand(
        Distribution(weights={"english": 0.7, "multilingual": 0.15, "code": 0.15}), corpus.num_train_tokens, 6_400
    )
    phase = StreamPhase(num_samples=200, sequence_length=32, weights=weights)
    stream = TokenStream(corpus, [phase], seed=1, shuffle_block_tokens=128)
    batch = stream.read(range(8))
    for row, source in enumerate(batch.sources_B):
        tokens = corpus.train(stream.source_names[source]).tolist()
        windows = [tokens[i : i + 32] for i in range(len(tokens) - 31)]
        assert batch.inputs_BT[row].tolist() in windows
    assert np.array_equal(batch.inputs_BT[:, 1:], batch.targets_BT[:, :-1])


def test_a_missing_file_is_named(prepared):
    (prepared / "tokens/code/c.heldout.idx").unlink()
    expected = f"{prepared}/tokens/code/c.heldout.idx: missing; rerun `nemotron4 prepare`"
    assert message_of(ValueError, Corpus.open, prepared, True) == expected


def test_an_absent_corpus_or_source_is_named(tmp_path, corpus):
    expected = f"{tmp_path}: not a prepared corpus (it has no manifest.json); run `nemotron4 prepare`"
    assert message_of(ValueError, Corpus.open, tmp_path) == expected
    assert message_of(ValueError, corpus.train, "english/none") == (
        f"{corpus.dir}: no train split of source 'english/none'; it has {', '.join(corpus.source_names)}"
    )


def test_a_damaged_manifest_is_refused(prepared):
    (prepared / "manifest.json").write_text("{")
    message = message_of(ValueError, Corpus.open, prepared)
    assert message.startswith(f"{prepared}/manifest.json: not a readable manifest (")
    assert message.endswith(f"); move {prepared} away and rerun `nemotron4 prepare`")


def test_bad_records_are_kept_apart_and_the_run_continues(tmp_path, make_job, prepared):
    good = {"id": "1", "text": "all well \u2581 here", "source": "english/books", "split": "train"}
    write_raw(
        tmp_path / "raw/a.jsonl",
        good,
        b'{"text": "cut',
        b"",
        b'{"text": "\xff"}',
        {"id": "no text"},
        ["not", "an", "object"],
        {"text": ""},
        {"text": "a\0b"},
        b'{"text": "\\ud800"}',
        {"text": "x", "source": "../../etc/passwd"},
        {"text": "x", "split": "third"},
        {"text": "file by default"},
    )
    tokenizer = TokenizerConfig(model=str(prepared / "tokenizer/tokenizer.model"))
    config = CorpusConfig(name="bad", files=[f"{tmp_path}/raw/*"], source="notes/mine", heldout_fraction=0.0)
    run_prepare(make_job(None, tmp_path / "out", corpus=config, tokenizer=tokenizer))
    rejected = [json.loads(line) for line in read_lines(tmp_path / "out/rejected/records.jsonl.zst")]
    assert [(record["position"], record["reason"]) for record in rejected] == [
        ("line 2", "broken JSON"),
        ("line 4", "invalid UTF-8"),
        ("line 5", "no text"),
        ("line 6", "no text"),
        ("line 7", "empty text"),
        ("line 8", "NUL in text"),
        ("line 9", "invalid UTF-8"),
        ("line 10", "source is not domain/category of at most 100 characters each"),
        ("line 11", "split is neither train nor heldout"),
    ]
    assert rejected[0]["record"] == '{"text": "cut'
    result = Corpus.open(tmp_path / "out")
    assert result.manifest.stages["documents"].facts["rejected"]["invalid UTF-8"] == 2
    assert result.source_names == ["english/books", "notes/mine"]
    assert result.tokenizer.decode(result.train("english/books").tolist()) == good["text"]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst"])
def test_compressed_files_are_read(tmp_path, suffix):
    content = b'{"text": "one"}\n{"text": "two"}'
    compress = {".jsonl.gz": gzip.compress, ".jsonl.xz": lzma.compress, ".jsonl.zst": zstandard.compress}
    (tmp_path / f"a{suffix}").write_bytes(compress.get(suffix, bytes)(content))
    assert list(read_lines(tmp_path / f"a{suffix}")) == content.split(b"\n")


@pytest.mark.parametrize(
    ("compress", "suffix"), [(gzip.compress, "gz"), (lzma.compress, "xz"), (zstandard.compress, "zst")]
)
def test_a_truncated_file_of_a_corpus_is_named(tmp_path, compress, suffix):
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(compress(b'{"text": "one"}\n' * 100)[:-9])
    message = message_of(OSError, lambda: list(read_lines(path)))
    assert message.startswith(f"{path}: cannot be read to its end (Compressed file ended")
    assert message.endswith("); copy or compress it again")


def test_splits_follow_the_id(tmp_path, make_job, prepared):
    write_raw(tmp_path / "raw/a.jsonl", *({"id": f"doc{n}", "text": f"text {n}"} for n in range(2000)))
    tokenizer = TokenizerConfig(model=str(prepared / "tokenizer/tokenizer.model"))
    config = CorpusConfig(name="split", files=[f"{tmp_path}/raw/*"], heldout_fraction=0.1)
    run_prepare(make_job(None, tmp_path / "out", corpus=config, tokenizer=tokenizer))
    result = Corpus.open(tmp_path / "out")
    assert 150 < result.sizes("english/documents", "heldout")["documents"] < 250


def test_an_empty_corpus_is_refused(tmp_path, make_job):
    write_raw(tmp_path / "raw/a.jsonl", b"", {"text": ""})
    assert message_of(ValueError, run_prepare, make_job(tmp_path / "raw", tmp_path / "out")) == (
        "corpus.files: 1 file(s) hold no document for training; 1 of 1 record(s): empty text "
        f'(first: {tmp_path}/raw/a.jsonl line 2: {{"text": ""}}); correct the files'
    )


def test_files_that_do_not_exist_are_refused(tmp_path, make_job):
    assert message_of(ValueError, run_prepare, make_job(tmp_path, tmp_path / "out")) == (
        f"corpus.files ({tmp_path}/*.jsonl): matches no file; correct the path or the glob"
    )
    missing = TokenizerConfig(model=str(tmp_path / "none.model"))
    write_raw(tmp_path / "a.jsonl", {"text": "one", "split": "train"})
    assert message_of(ValueError, run_prepare, make_job(tmp_path, tmp_path / "out", tokenizer=missing)) == (
        f"tokenizer.model ({tmp_path}/none.model): no such file; give a SentencePiece model, or null to train one"
    )


def test_a_full_disk_is_reported_in_one_line(tmp_path, make_job, raw_directory, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare_module, "tokenise_documents", full)
    assert message_of(OSError, run_prepare, make_job(raw_directory, tmp_path / "out")) == (
        f"stage tokens: {tmp_path}/out: No space left on device: fix this and rerun: finished stages are kept"
    )


def test_a_vocabulary_below_the_characters_is_refused(raw_directory, tmp_path, make_job):
    write_raw(tmp_path / "raw/a.jsonl", {"text": "".join(map(chr, range(0x4E00, 0x5200))), "split": "train"})
    job = make_job(tmp_path / "raw", tmp_path / "out", tokenizer=TokenizerConfig(vocab_size=512))
    message = message_of(ValueError, run_prepare, job)
    assert message.startswith("tokenizer.vocab_size (512) must be at least ")
    assert message.endswith(" to give each character a piece: raise it or lower tokenizer.character_coverage (0.9995)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": []}, "corpus.files ([]): must name at least one file or glob; pass corpus.files=[PATH,...]"),
        ({"name": "a/b"}, "corpus.name ('a/b'): must be letters, digits, '_', '-' and '.'; rename it"),
        ({"source": "web"}, "corpus.source ('web'): must be domain/category, as in english/documents"),
        ({"heldout_fraction": 1.0}, "corpus.heldout_fraction (1.0): must be at least 0 and below 1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    assert message_of(ValueError, lambda: CorpusConfig(**{"name": "x", "files": ["y"], **settings})) == message


def test_bad_inputs_of_later_stages_are_refused_before_the_first(tmp_path, make_job):
    (tmp_path / "raw").mkdir()
    write_raw(tmp_path / "raw/a.jsonl", {"text": "one", "split": "train"})
    bad = tmp_path / "bad.model"
    bad.write_bytes(b"no model")
    quality = {"domains": ["english"], "model_dir": str(tmp_path / "raw")}
    for changes, message in (
        (
            {"tokenizer": TokenizerConfig(model="missing.model")},
            "tokenizer.model (missing.model): no such file; give a SentencePiece model, or null to train one",
        ),
        ({"tokenizer": TokenizerConfig(model=str(bad))}, f"{bad}: not a SentencePiece model: "),
        (
            {"curation": CurationConfig(quality=QualityConfig(**quality | {"model_dir": "nowhere"}))},
            "curation.quality.model_dir (nowhere): is not a directory; train and export a scorer with",
        ),
        (
            {"curation": CurationConfig(quality=QualityConfig(**quality, scorer="json:scorer"))},
            "curation.quality.scorer (json:scorer): module 'json' has no attribute 'scorer'; name a factory",
        ),
        (
            {"curation": CurationConfig(decontamination=items("nowhere/*.jsonl"))},
            "curation.decontamination.benchmarks.b (nowhere/*.jsonl): matches no file; correct the path or the glob",
        ),
    ):
        job = make_job(tmp_path / "raw", tmp_path / "prepared", **changes)
        with pytest.raises(ValueError) as caught:
            run_prepare(job)
        assert str(caught.value).startswith(message)
        assert not (tmp_path / "prepared").exists()


def items(pattern):
    return DecontaminationConfig(domains=["english"], benchmarks={"b": [pattern]})
