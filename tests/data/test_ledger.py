"""The ledger: the same wherever checkpoints were made, incremental, and what verify reports about a changed one."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_common.staging import file_sha256
from nemotron4_data import StreamPhase, TokenStream, ledger
from nemotron4_data.data_config import DataDirConfig
from nemotron4_data.ledger import Ledger, first_difference, make_ledger
from nemotron4_data.manifest import Manifest
from nemotron4_data.verify import VerifyJob, verify

WEB, DE = "english/web", "multilingual/de"


def phases(*cuts):
    weights = {WEB: 0.7, DE: 0.3}
    return [StreamPhase(num_samples=n, sequence_length=32, weights=weights) for n in cuts]


def stream_of(corpus, *cuts, seed=1):
    return TokenStream(corpus, phases(*cuts) if cuts else phases(300), seed, 64)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(ledger, "_CHUNK_SAMPLES", 16)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 300), max_size=6), st.lists(st.integers(1, 299), max_size=3))
def test_a_ledger_does_not_depend_on_earlier_ones_or_the_batch_ramp(corpus, cuts, ramp):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_CHUNK_SAMPLES", 16)
        bounds = sorted({0, 300, *ramp})
        ramped = stream_of(corpus, *np.diff(bounds).tolist())
        previous = None
        for samples in sorted(cuts):
            previous = make_ledger(ramped, corpus, samples, previous)
            assert Ledger(**json.loads(previous.to_json())) == previous
        assert make_ledger(ramped, corpus, 300, previous) == make_ledger(stream_of(corpus), corpus, 300)


def test_the_next_ledger_costs_only_the_samples_since_the_last(corpus, small_chunks, monkeypatch):
    stream = stream_of(corpus)
    previous = make_ledger(stream, corpus, 200)
    read = []
    entries = stream.entries
    monkeypatch.setattr(stream, "entries", lambda first, last: read.append((first, last)) or entries(first, last))
    make_ledger(stream, corpus, 230, previous)
    assert read == [(192, 208), (208, 224), (224, 230)]


def test_a_ledger_of_another_order_is_not_continued(corpus, small_chunks):
    other = make_ledger(stream_of(corpus, seed=2), corpus, 200)
    assert make_ledger(stream_of(corpus), corpus, 230, other) == make_ledger(stream_of(corpus), corpus, 230)
    later = make_ledger(stream_of(corpus), corpus, 230)
    assert make_ledger(stream_of(corpus), corpus, 200, later) == make_ledger(stream_of(corpus), corpus, 200)


def test_it_counts_tokens_documents_and_epochs(corpus):
    found = make_ledger(stream_of(corpus), corpus, 300)
    assert found.tokens == 300 * 32 == sum(counts["tokens"] for counts in found.sources.values())
    for name, counts in found.sources.items():
        sizes = corpus.sizes(name)
        assert counts["documents"] == counts["tokens"] * sizes["documents"] // sizes["tokens"]
        assert counts["epochs"] == counts["tokens"] / (sizes["tokens"] - 1)
    assert found.sources[WEB]["tokens"] == 210 * 32
    assert found.corpus == corpus.digest


def test_the_digest_covers_everything_that_determines_the_samples(corpus):
    different = [
        make_ledger(stream_of(corpus), corpus, 299),
        make_ledger(stream_of(corpus, seed=2), corpus, 300),
        make_ledger(TokenStream(corpus, phases(300), 1, 65), corpus, 300),
        make_ledger(stream_of(corpus), corpus, 300),
    ]
    assert len({found.sequence for found in different}) == 4


def test_verify_finds_a_ledger_as_it_is(corpus, tmp_path, capsys):
    path = tmp_path / "checkpoints" / "step-00000300" / "ledger.json"
    path.parent.mkdir(parents=True)
    found = make_ledger(stream_of(corpus), corpus, 300)
    path.write_bytes(found.to_json())
    verify(VerifyJob(data=DataDirConfig(dir=str(corpus.dir)), run=str(tmp_path)))
    shown = capsys.readouterr().out
    assert WEB in shown
    assert f"digest {found.sequence[:12]}" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence": "0" * 64}, "sequence is {zeros} in the ledger, {sequence} when recomputed"),
        ({"tokens": 5}, "tokens is 5 in the ledger, 9600 when recomputed"),
        ({"samples": 299}, "samples is 299, but its timeline has 300"),
        (
            {"sources": {WEB: {"tokens": 1, "documents": 0, "epochs": 0.0}}},
            "sources.english/web.tokens is 1 in the ledger, 6720 when recomputed",
        ),
    ],
)
def test_verify_names_the_first_difference(corpus, tmp_path, change, message):
    found = make_ledger(stream_of(corpus), corpus, 300)
    path = tmp_path / "ledger.json"
    path.write_bytes(dataclasses.replace(found, **change).to_json())
    with pytest.raises(ValueError) as error:
        verify(VerifyJob(data=DataDirConfig(dir=str(corpus.dir)), ledger=str(path)))
    assert str(error.value) == f"{path}: {message.format(zeros='0' * 64, sequence=found.sequence)}"


def test_a_ledger_of_another_corpus_or_tokenizer_is_refused(corpus, tmp_path):
    found = make_ledger(stream_of(corpus), corpus, 300)
    digests = {"corpus": corpus.digest, "tokenizer": corpus.tokenizer_digest, "manifest": corpus.manifest_digest}
    for name, here in digests.items():
        with pytest.raises(ValueError) as error:
            dataclasses.replace(found, **{name: "f" * 64}).stream(corpus)
        assert str(error.value) == (
            f"{corpus.dir}: digest of the {name} is {here[:12]}, but the ledger was made with ffffffffffff; "
            f"give the directory of the corpus that the run read"
        )


def test_a_completely_forged_corpus_is_detected_by_the_ledger(corpus, tmp_path):
    """Tokens, their SHA-256 and every digest in the manifest changed together: nothing in the directory shows it."""
    shutil.copytree(corpus.dir, tmp_path / "copy")
    path = tmp_path / "ledger.json"
    path.write_bytes(make_ledger(stream_of(corpus), corpus, 300).to_json())
    manifest = Manifest.load(tmp_path / "copy")
    name = f"tokens/{WEB}.train.bin"
    content = (corpus.dir / name).read_bytes()
    (tmp_path / "copy" / name).write_bytes(content[2:4] + content[:2] + content[4:])
    manifest.stages["tokens"].files[name] = file_sha256(tmp_path / "copy" / name)
    manifest.save(tmp_path / "copy")
    verify(VerifyJob(data=DataDirConfig(dir=str(tmp_path / "copy"))))
    with pytest.raises(ValueError, match=r"digest of the corpus is .*, but the ledger was made with"):
        verify(VerifyJob(data=DataDirConfig(dir=str(tmp_path / "copy")), ledger=str(path)))


def test_older_ledgers_are_verified_and_what_they_lack_is_reported(corpus, tmp_path, capsys):
    path = tmp_path / "ledger.json"
    content = dataclasses.asdict(make_ledger(stream_of(corpus), corpus, 300))
    del content["manifest"]
    path.write_text(json.dumps(content))
    verify(VerifyJob(data=DataDirConfig(dir=str(corpus.dir)), ledger=str(path)))
    assert capsys.readouterr().err.endswith(
        f"{path} is of an older version, without the manifest's digest: counts were compared with the corpus alone\n"
    )
    assert make_ledger(stream_of(corpus), corpus, 300, Ledger.load(path)).manifest == corpus.manifest_digest


def test_a_file_that_is_not_a_ledger_is_refused(corpus, tmp_path):
    path = tmp_path / "ledger.json"
    with pytest.raises(ValueError) as error:
        Ledger.load(path)
    assert str(error.value) == f"{path}: no such ledger; a checkpoint directory holds one as ledger.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"ledger.json: not a ledger \(.*\); give one that a checkpoint holds$"):
        Ledger.load(path)
    with pytest.raises(ValueError) as error:
        verify(VerifyJob(data=DataDirConfig(dir=str(corpus.dir)), run=str(tmp_path)))
    assert str(error.value) == (f"run ({tmp_path}): no checkpoint with a ledger.json; name a run that has saved one")


def test_the_first_difference_is_found_in_nested_values():
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) is None
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == (
        "a[1].b is 2 in the ledger, 3 when recomputed"
    )
    assert first_difference({"a": [1]}, {"a": [1, 2]}) == "a is [1] in the ledger, [1, 2] when recomputed"
    assert first_difference({}, {"b": 0}) == "b is None in the ledger, 0 when recomputed"
