"""`curation.keep_dropped`: each document that curation drops, with its reason, the same bytes however it is run."""

import json
import shutil
from collections import Counter

import pytest

from nemotron4_data import (
    Corpus,
    CorpusConfig,
    ExecutorConfig,
    TokenizerConfig,
    document_stage,
    ingest,
    prepare,
    run_prepare,
)
from nemotron4_data.curation.config import CurationConfig, DecontaminationConfig, LanguageConfig
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.curation.heuristics_config import GopherQualityConfig
from nemotron4_data.data_config import DataDirConfig
from nemotron4_data.documents import read_lines
from nemotron4_data.verify import VerifyJob, verify

ITEM = "how many apples does the farmer have left after he sells eleven of them at the market on friday"
GERMAN = "Der Fluss war breit und langsam, und die Menschen im Tal hatten gelernt, mit ihm zu leben. " * 3
PROSE = "The river was wide and slow, and the people of the valley had learned to live with it and with number {}. " * 4
DROPPED = {
    "german": ("language", "declares en, is de"),
    "copy": ("dedup", "exact"),
    "short": ("gopher_quality", "min_words"),
    "leak": ("decontamination", "exam"),
}


@pytest.fixture
def make(tmp_path, corpus, make_job, monkeypatch):
    """A job over three files, each a task, of which four documents are dropped."""
    monkeypatch.setattr(ingest, "_TASK_BYTES", 1)
    raw = tmp_path / "raw"
    raw.mkdir()
    texts = {f"kept {n}": PROSE.format(n, n, n, n) for n in range(8)}
    texts |= {"german": GERMAN, "copy": texts["kept 0"], "short": "Too short.", "leak": PROSE.format(*"abcd") + ITEM}
    rows = [
        json.dumps({"id": name, "text": text, "source": "english/web", "split": "train"})
        for name, text in texts.items()
    ]
    for number in range(3):
        (raw / f"{number}.jsonl").write_text("\n".join(rows[number::3]) + "\n", encoding="utf-8")
    (tmp_path / "exam.txt").write_text(ITEM, encoding="utf-8")
    benchmarks = {"exam": [str(tmp_path / "exam.txt")]}
    curation = {
        "language": LanguageConfig(domains=["english"]),
        "dedup": DedupConfig(exact=True),
        "gopher_quality": GopherQualityConfig(domains=["english"]),
        "decontamination": DecontaminationConfig(domains=["english"], benchmarks=benchmarks),
    }

    def job(name, num_workers=1, **changed):
        return make_job(
            raw,
            tmp_path / name,
            corpus=CorpusConfig(name="kept", files=[f"{raw}/*.jsonl"]),
            tokenizer=TokenizerConfig(model=str(corpus.tokenizer.path)),
            executor=ExecutorConfig(num_workers=num_workers),
            curation=CurationConfig(**curation, **changed),
        )

    return job


def killed(*arguments):
    raise KeyboardInterrupt


def dropped_bytes(directory):
    return (directory / "dropped/documents.jsonl.zst").read_bytes()


def test_what_was_dropped_is_kept_with_its_reason(make, tmp_path, monkeypatch):
    run_prepare(make("plain"))
    assert not (tmp_path / "plain/dropped").exists()
    run_prepare(make("kept", keep_dropped=True))
    records = [json.loads(line) for line in read_lines(tmp_path / "kept/dropped/documents.jsonl.zst")]
    assert {record["id"]: (record["step"], record["reason"]) for record in records} == DROPPED
    assert len(records) == len(DROPPED)
    assert {record["id"]: record["text"] for record in records}["german"] == GERMAN
    assert next(record for record in records if record["id"] == "copy")["kept_id"] == "kept 0"
    plain, kept = (Corpus.open(tmp_path / name) for name in ("plain", "kept"))
    facts = kept.manifest.stages["documents"].facts
    counted = Counter(step["name"] for step in facts["curation"]["steps"] for _ in step["dropped"])
    assert counted + Counter(dedup=len(facts["dedup"])) == Counter(record["step"] for record in records)
    # It is listed, and changes nothing else.
    assert "dropped/documents.jsonl.zst" in kept.files
    verify(VerifyJob(data=DataDirConfig(dir=str(tmp_path / "kept"))))
    assert (kept.digest, kept.manifest_digest) == (plain.digest, plain.manifest_digest)

    # Neither workers nor a kill show in the bytes.
    with monkeypatch.context() as patch:
        patch.setattr(document_stage, "file_by_source", killed)
        with pytest.raises(KeyboardInterrupt):
            run_prepare(make("again", keep_dropped=True))
    assert len(list((tmp_path / "again/documents.work/keep_dropped/filtered").iterdir())) == 3
    shutil.rmtree(tmp_path / "again/documents.work/keep_dropped/filtered/000001")
    run_prepare(make("again", num_workers=2, keep_dropped=True))
    assert dropped_bytes(tmp_path / "again") == dropped_bytes(tmp_path / "kept")


def test_it_can_be_switched_on_and_off(make, tmp_path, capsys, monkeypatch):
    run_prepare(make("out"))
    capsys.readouterr()
    run_prepare(make("out", keep_dropped=True))
    shown = capsys.readouterr().err
    assert "documents: rebuilding, because curation.keep_dropped asks for what was dropped" in shown
    assert "tokens: unchanged, kept" in shown
    run_prepare(make("out"))
    assert "documents: unchanged, kept" in capsys.readouterr().err
    assert dropped_bytes(tmp_path / "out")
    (tmp_path / "raw/0.jsonl").write_text(json.dumps({"text": PROSE, "source": "english/web", "split": "train"}))
    with monkeypatch.context() as patch:  # killed when the new documents have taken their place
        patch.setattr(prepare._Preparation, "_remove_dropped", killed)
        with pytest.raises(KeyboardInterrupt):
            run_prepare(make("out"))
    assert dropped_bytes(tmp_path / "out")
    run_prepare(make("out"))
    assert not (tmp_path / "out/dropped").exists()
    verify(VerifyJob(data=DataDirConfig(dir=str(tmp_path / "out"))))
