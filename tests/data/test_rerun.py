"""What `nemotron4 prepare` does again after a change, an interruption or damage; and what its inputs are."""

import hashlib
import json
import shutil

import pytest
from messages import message_of
from raw_files import write_raw

from nemotron4_data import (
    Corpus,
    ExecutorConfig,
    TokenizerConfig,
    run_prepare,
)
from nemotron4_data import prepare as prepare_module
from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_data.curation.config import CurationConfig
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.inputs import by_content
from nemotron4_data.manifest import Manifest

STAGES = ["documents", "tokenizer", "tokens"]
SPIED = ("write_documents", "train_tokenizer", "tokenise_documents")


@pytest.fixture
def stages_run(monkeypatch):
    """Names of the stages that do work, in order."""
    run = []
    for stage, name in zip(STAGES, SPIED, strict=True):
        original = getattr(prepare_module, name)

        def spy(*arguments, original=original, stage=stage, **named):
            run.append(stage)
            return original(*arguments, **named)

        monkeypatch.setattr(prepare_module, name, spy)
    return run


def test_a_rerun_does_nothing(prepared, raw_directory, make_job, stages_run):
    before = (prepared / "manifest.json").read_text()
    run_prepare(make_job(raw_directory, prepared, executor=ExecutorConfig(num_workers=2)))
    assert stages_run == []
    after = json.loads((prepared / "manifest.json").read_text())
    assert after["stages"] == json.loads(before)["stages"]


def test_workers_do_not_change_the_shards(corpus, raw_directory, make_job, tmp_path, monkeypatch):
    monkeypatch.setattr("nemotron4_data.tokenise._TASK_BYTES", 4_000)
    run_prepare(make_job(raw_directory, tmp_path / "out", executor=ExecutorConfig(num_workers=2)))
    assert Corpus.open(tmp_path / "out", verify=True).digest == corpus.digest


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tokenizer": TokenizerConfig(vocab_size=900)}, ["tokenizer", "tokens"]),
        ({"seed": 7, "tokenizer": TokenizerConfig(vocab_size=1024, train_bytes=90_000)}, ["tokenizer", "tokens"]),
    ],
)
def test_a_changed_setting_reruns_from_its_stage(prepared, raw_directory, make_job, stages_run, change, expected):
    run_prepare(make_job(raw_directory, prepared, **change))
    assert stages_run == expected
    Corpus.open(prepared, verify=True)


@pytest.mark.parametrize(
    "change",
    [
        {"blend": {"english": 0.5, "multilingual": 0.2, "code/c": 0.3}},
        {"curation": CurationConfig(dedup=DedupConfig(memory_megabytes=256))},
    ],
)
def test_a_setting_that_changes_no_output_reruns_nothing(prepared, raw_directory, make_job, stages_run, change):
    if weights := change.get("blend"):
        change = {"blend": BlendConfig(distributions={"main": Distribution(weights=weights)})}
    run_prepare(make_job(raw_directory, prepared, **change))
    assert stages_run == []
    manifest = Manifest.load(prepared)
    assert manifest.settings["curation"]["dedup"]["memory_megabytes"] == (1024 if weights else 256)
    if weights:
        rows = manifest.blend["sources"]
        assert rows["code/c"]["weight"] == 0.3
        total = manifest.blend["tokens"]
        assert rows["code/c"]["epochs"] == 0.3 * total / Corpus.open(prepared).num_train_tokens["code/c"]
        assert "code/python" not in rows
        assert "<h2>Blend</h2><p class=lead>main" in (prepared / "report.html").read_text(encoding="utf-8")
        run_prepare(make_job(raw_directory, prepared))
        assert stages_run == []
        assert Manifest.load(prepared).blend is None
        assert "<h2>Blend</h2>" not in (prepared / "report.html").read_text(encoding="utf-8")


def test_a_wrong_source_of_a_blend_is_refused_before_tokenising(tmp_path, raw_directory, make_job, stages_run):
    good = Distribution(weights={"english": 0.5, "multilingual": 0.2, "code": 0.3})
    wrong = Distribution(weights={"english": 0.5, "multilingual": 0.2, "code": 0.2, "math": 0.1})
    job = make_job(raw_directory, tmp_path / "out", blend=BlendConfig(distributions={"main": good, "later": wrong}))
    assert message_of(ValueError, run_prepare, job) == (
        "blend.distributions.later.weights.math (0.1): matches no source of the corpus that no other key names; remove "
        "it or name one of code/c, code/python, english/books, english/encyclopedia, english/web, multilingual/de, "
        "multilingual/el, multilingual/ja"
    )
    assert stages_run == ["documents"]


def test_changed_text_reruns_everything(prepared, corpus, raw_directory, make_job, stages_run, tmp_path):
    raw = shutil.copytree(raw_directory, tmp_path / "raw")
    with (raw / "code.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "print(1)\n", "source": "code/python", "split": "train"}) + "\n")
    run_prepare(make_job(raw, prepared))
    assert stages_run == STAGES
    grown = Corpus.open(prepared, verify=True)
    assert grown.sizes("code/python")["documents"] == corpus.sizes("code/python")["documents"] + 1
    assert grown.digest != corpus.digest


@pytest.mark.parametrize("stage", range(3))
def test_an_interrupted_stage_runs_again_and_finished_ones_are_kept(
    stage, corpus, raw_directory, make_job, tmp_path, monkeypatch, stages_run
):
    work = getattr(prepare_module, SPIED[stage])

    def interrupted(*arguments, **named):
        work(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, SPIED[stage], interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_prepare(make_job(raw_directory, tmp_path / "out"))
    expected = f"{tmp_path}/out: the corpus is not finished; rerun `nemotron4 prepare`"
    if stage:
        assert message_of(ValueError, Corpus.open, tmp_path / "out") == expected
    assert not list((tmp_path / "out").glob("*.partial"))
    stages_run.clear()
    run_prepare(make_job(raw_directory, tmp_path / "out"))
    assert stages_run == STAGES[stage:]
    assert Corpus.open(tmp_path / "out", verify=True).digest == corpus.digest


def test_killed_between_replacing_and_recording(prepared, corpus, raw_directory, make_job, monkeypatch, stages_run):
    """The moment that matters: new shards are in place, the manifest does not know them yet."""
    (prepared / "tokens/code/c.train.bin").unlink()

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "hash_files", killed)
        with pytest.raises(KeyboardInterrupt):
            run_prepare(make_job(raw_directory, prepared))
    with pytest.raises(ValueError, match=r"the corpus is not finished; rerun `nemotron4 prepare`$"):
        Corpus.open(prepared)
    (prepared / "tokens.partial").mkdir()  # what a kill while filling leaves behind
    (prepared / "tokens.partial/lock").touch()
    (prepared / "tokens.partial/half").write_text("half")
    stages_run.clear()
    run_prepare(make_job(raw_directory, prepared))
    assert stages_run == ["tokens"]
    assert Corpus.open(prepared, verify=True).digest == corpus.digest
    assert not (prepared / "tokens.partial").exists()


def test_a_failed_change_leaves_the_corpus_as_it_was(prepared, corpus, raw_directory, make_job):
    job = make_job(raw_directory, prepared, tokenizer=TokenizerConfig(vocab_size=100_000))
    message = message_of(ValueError, run_prepare, job)
    assert message.startswith("tokenizer.vocab_size (100000) must be at most ")
    assert message.endswith(", as many as this text supports: lower it or add text")
    assert Corpus.open(prepared, verify=True).digest == corpus.digest


def test_new_documents_without_new_shards_do_not_count(prepared, raw_directory, make_job, tmp_path, monkeypatch):
    """Same tokenizer file, other text, stopped before the shards: the old shards must not pass for the new."""
    raw = tmp_path / "raw"
    write_raw(raw / "a.jsonl", {"text": "other", "source": "english/books", "split": "train"})
    shutil.copy(prepared / "tokenizer/tokenizer.model", tmp_path / "kept.model")
    kept = TokenizerConfig(model=str(tmp_path / "kept.model"))
    run_prepare(make_job(raw_directory, prepared, tokenizer=kept))

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "tokenise_documents", killed)
    with pytest.raises(KeyboardInterrupt):
        run_prepare(make_job(raw, prepared, tokenizer=kept))
    with pytest.raises(ValueError, match="the corpus is not finished"):
        Corpus.open(prepared)


def test_a_damaged_shard_is_named_and_rebuilt(prepared, corpus, raw_directory, make_job, stages_run):
    path = prepared / "tokens/english/books.train.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    expected = corpus.manifest.stages["tokens"].files["tokens/english/books.train.bin"]
    path.write_bytes(content)
    Corpus.open(prepared)  # opening alone reads no shard
    found = hashlib.sha256(content).hexdigest()
    assert message_of(ValueError, Corpus.open, prepared, True) == (
        f"{path}: SHA-256 is {found} but the manifest says {expected}: "
        "the file was damaged or changed; rerun `nemotron4 prepare`"
    )
    run_prepare(make_job(raw_directory, prepared))
    assert stages_run == ["tokens"]
    Corpus.open(prepared, verify=True)


def test_files_that_settings_name_are_inputs(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("1")
    (tmp_path / "a.txt").write_text("2")
    settings = {
        "quality": {"model": f"{tmp_path}/model"},
        "benchmarks": [{"a": [f"{tmp_path}/*.txt", "none/x", f"{tmp_path}/b[1].csv", f"{tmp_path}/**/*.deep"]}],
        "n": 1,
    }
    (tmp_path / "b[1].csv").write_text("3")
    (tmp_path / "model/below").mkdir()
    (tmp_path / "model/below/a.deep").write_text("4")
    before = by_content(settings)
    one, two, three, four = (hashlib.sha256(content).hexdigest() for content in (b"1", b"2", b"3", b"4"))
    assert before == {
        "quality": {"model": {"files": [["below/a.deep", four], ["weights", one]]}},
        "benchmarks": [
            {
                "a": [
                    {"files": [["a.txt", two]]},
                    "none/x",
                    {"files": [["b[1].csv", three]]},
                    {"files": [["a.deep", four]]},
                ]
            }
        ],
        "n": 1,
    }
    moved = shutil.copytree(tmp_path, tmp_path / "moved")
    assert by_content(json.loads(json.dumps(settings).replace(str(tmp_path), str(moved)))) == before
    (tmp_path / "model/weights").write_text("3")
    assert by_content(settings) != before
