"""`nemotron4 prepare` with every kind of curation at once: what is dropped, kept, and shown in manifest and report."""

import base64
import json
import random

from nemotron4_data import Corpus, CorpusConfig, run_prepare
from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_data.curation.config import CurationConfig, DecontaminationConfig, PiiConfig
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.curation.quality_config import QualityConfig
from nemotron4_data.documents import read_lines
from nemotron4_data.manifest import Manifest

ITEM = "how many apples does the farmer have left after he sells eleven of them at the market on friday"


def write_extra(raw, records):
    lines = [json.dumps({"source": "english/web", "split": "train", **record}) for record in records]
    (raw / "zz.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_every_kind_of_curation_in_one_run(make_job, tmp_path):
    from tiny_corpus import write_tiny_corpus

    raw, scorer = tmp_path / "raw", tmp_path / "scorer"
    write_tiny_corpus(raw)
    first = json.loads((raw / "english.jsonl").read_text(encoding="utf-8").splitlines()[0])
    write_extra(
        raw,
        [
            {"id": "copy", "text": first["text"]},
            {"id": "near copy", "text": first["text"] + " indeed"},
            {"id": "leak", "text": f"The exam asks {ITEM}, and nobody knew."},
            {"id": "mail", "text": first["text"][::-1] + " write to jane.roe@acme-widgets.com today", "license": "MIT"},
            {"id": "noise", "text": base64.b85encode(random.Random(0).randbytes(900)).decode()},
        ],
    )
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": ITEM}) + "\n", encoding="utf-8")
    scorer.mkdir()
    (scorer / "reference.txt").write_text(first["text"], encoding="utf-8")
    curation = CurationConfig(
        dedup=DedupConfig(exact=True, near=True),
        decontamination=DecontaminationConfig(domains=["english"], benchmarks={"exam": [str(tmp_path / "exam.jsonl")]}),
        pii=PiiConfig(domains=["english"]),
        quality=QualityConfig(
            domains=["english"],
            model_dir=str(scorer),
            scorer="compressing_scorer:compressing_scorer",
            percentiles=[30.0, 98.0],
        ),
    )
    blend = BlendConfig(
        distributions={"main": Distribution(weights={"english": 0.7, "multilingual": 0.15, "code": 0.15})}
    )
    run_prepare(
        make_job(
            raw,
            tmp_path / "out",
            corpus=CorpusConfig(name="tiny", files=[f"{raw}/*.jsonl"]),
            curation=curation,
            blend=blend,
        )
    )
    kept = {
        record["id"]: record
        for path in sorted((tmp_path / "out/documents").rglob("*.zst"))
        for record in map(json.loads, read_lines(path))
    }
    assert first["id"] in kept
    assert {"copy", "near copy", "leak", "noise"} & set(kept) == set()
    assert "acme-widgets" not in kept["mail"]["text"]

    facts = Manifest.load(tmp_path / "out").stages["documents"].facts
    assert {reason: part["dropped"]["english/web"]["documents"] for reason, part in facts["dedup"].items()} == {
        "exact": 1,
        "near": 1,
    }
    dropped = {step["name"]: list(step["dropped"]) for step in facts["curation"]["steps"]}
    assert dropped["decontamination"] == ["exam"]
    assert dropped["lm_quality"][0].startswith("tail of en: above ")
    assert facts["benchmarks"] == {"exam": {"texts": 1, "short": 0}}
    assert facts["licenses"]["MIT"]["documents"] == 1
    assert sum(facts["quality"]["languages"]["en"]["documents"].values()) > 80
    shown = Manifest.load(tmp_path / "out").blend
    assert abs(sum(row["weight"] for row in shown["sources"].values()) - 1) < 1e-9
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    for part in ("near duplicates", "decontamination", "Fertility", "Blend", "MIT"):
        assert part in page
    assert Corpus.open(tmp_path / "out", verify=True).num_train_tokens
