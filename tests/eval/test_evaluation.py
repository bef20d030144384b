"""`nemotron4 eval` end to end: a prepared corpus, an exported model, one result file."""

import gzip
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nemotron4_data import Corpus, PrepareJob, Tokenizer, run_prepare
from nemotron4_data.data_config import DataDirConfig
from nemotron4_data.prepare_job import CorpusConfig, ExecutorConfig, TokenizerConfig
from nemotron4_eval import EvalJob, SuiteConfig, run_eval
from nemotron4_eval.heldout.result import check_output, replaced_result, write_result
from nemotron4_eval.heldout.text import read_heldout
from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_corpus import write_tiny_corpus

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    raw, directory = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("corpora") / "tiny"
    files = [str(path) for path in write_tiny_corpus(raw, num_documents=400)]
    corpus, tokenizer = CorpusConfig(name="tiny", files=files), TokenizerConfig(vocab_size=800)
    run_prepare(
        PrepareJob(corpus=corpus, tokenizer=tokenizer, dir=str(directory), executor=ExecutorConfig(num_workers=1))
    )
    return directory


@pytest.fixture(scope="module")
def export_dir(corpus_dir, tmp_path_factory):
    tokenizer_path = Corpus.open(corpus_dir).tokenizer.path
    return export_tiny(tokenizer_path, tmp_path_factory.mktemp("runs") / "demo" / "1" / "export")


def export_tiny(tokenizer_path, directory):
    config = ModelConfig(
        vocab_size=Tokenizer(tokenizer_path).vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_sequence_length=128,
    )
    model = Transformer(config)
    initialise(model, 0, config)
    save_pretrained(model, directory, dtype=torch.float32, tokenizer_model=tokenizer_path)
    return directory


@pytest.fixture(scope="module")
def result(corpus_dir, export_dir):
    suite = SuiteConfig(name="demo", tasks=["heldout_continuation"], num_items=24)
    overall = run_eval(EvalJob(model_dir=str(export_dir), data=DataDirConfig(dir=str(corpus_dir)), suite=suite))
    result = json.loads((export_dir.parent / "eval.json").read_text(encoding="utf-8"))
    assert overall == result["bits_per_byte"]["overall"]
    return result


def test_the_result_names_every_domain_and_source_for_model_and_compressors(result, corpus_dir):
    sources = Corpus.open(corpus_dir).heldout_names
    for key in ("bits_per_byte", "gzip_bits_per_byte", "xz_bits_per_byte"):
        assert set(result[key]) == {"overall", "english", "multilingual", "code", "sources"}
        assert list(result[key]["sources"]) == sources
    assert len(sources) == 8


def test_bits_per_byte_of_an_untrained_model_are_those_of_its_vocabulary(result, corpus_dir):
    corpus = Corpus.open(corpus_dir)
    bits = result["tokens"] * torch.tensor(float(corpus.vocab_size)).log2().item()
    assert result["bits_per_byte"]["overall"] == pytest.approx(bits / result["bytes"], rel=0.02)
    assert result["bytes"] == sum(corpus.sizes(source, "heldout")["bytes"] for source in corpus.heldout_names)
    assert result["tokens"] == sum(corpus.sizes(source, "heldout")["tokens"] for source in corpus.heldout_names)


def test_compressors_saw_the_same_bytes(result, corpus_dir):
    corpus = Corpus.open(corpus_dir)
    text = b"".join(corpus.heldout_bytes(source) for source in corpus.heldout_names)
    assert result["gzip_bits_per_byte"]["overall"] == 8 * len(gzip.compress(text, 9)) / len(text)
    assert result["xz_bits_per_byte"]["overall"] < 8


def test_the_result_says_what_was_measured(result, corpus_dir, export_dir):
    task = result["tasks"]["heldout_continuation"]
    assert (task["chance"], task["items"], task["metric"], task["shots"]) == (0.25, 24, "acc", 0)
    assert 0 <= task["value"] == task["metrics"]["acc"] <= 1
    assert task["stderr"] > 0
    assert "missing" not in result
    assert result["model"] == str(export_dir)
    assert result["corpus_digest"] == Corpus.open(corpus_dir).digest
    config = ModelConfig(**_shape(corpus_dir))
    assert result["parameters"] == config.num_parameters
    assert result["suite"] == "demo"
    assert result["seconds"] > 0


def _shape(corpus_dir):
    vocab_size = Corpus.open(corpus_dir).vocab_size
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 2}
    return {"vocab_size": vocab_size, **sizes, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_the_table_goes_to_standard_output(corpus_dir, export_dir, tmp_path, capsys):
    out = tmp_path / "new" / "place"
    job = EvalJob(
        model_dir=str(export_dir),
        data=DataDirConfig(dir=str(corpus_dir)),
        suite=SuiteConfig(max_bytes_per_source=1_000, window_tokens=64, stride_tokens=64),
        out=str(out),
    )
    run_eval(job)
    shown = capsys.readouterr().out
    for word in ("overall", "english/books", "gzip -9", "xz -9e", "bits per byte"):
        assert word in shown
    assert [path.name for path in out.iterdir()] == ["eval.json"]
    result = json.loads((out / "eval.json").read_text(encoding="utf-8"))
    assert result["tasks"] == {}
    assert 8_000 <= result["bytes"] < 30_000


def test_a_trainer_can_score_the_corpus_without_lm_eval(corpus_dir):
    script = f"""
import sys
from nemotron4_data import Corpus
from nemotron4_eval import evaluate_bits_per_byte
from nemotron4_model import ModelConfig, Transformer, initialise
config = ModelConfig(**{_shape(corpus_dir)}, max_sequence_length=64)
model = Transformer(config)
initialise(model, 0, config)
measured = evaluate_bits_per_byte(model, Corpus.open({str(corpus_dir)!r}), max_bytes_per_source=500)
print(measured.overall, "lm_eval" in sys.modules, "datasets" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    overall, lm_eval, datasets = done.stdout.split()
    assert float(overall) > 1
    assert (lm_eval, datasets) == ("False", "False")


def refusal(job):
    with pytest.raises(ValueError) as caught:
        run_eval(job)
    return str(caught.value)


def test_another_corpus_tokenizer_is_refused(corpus_dir, tmp_path, tokenizer_path):
    directory = export_tiny(tokenizer_path, tmp_path / "export")
    assert refusal(EvalJob(model_dir=str(directory), data=DataDirConfig(dir=str(corpus_dir)))) == (
        f"model_dir ({directory}): has a different tokenizer from data.dir ({corpus_dir}), so it cannot read "
        "its tokens; give the corpus the model was trained on, or one prepared with the same tokenizer"
    )


def test_a_missing_model_or_corpus_is_one_line(corpus_dir, export_dir, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert refusal(EvalJob(model_dir=str(nowhere), data=DataDirConfig(dir=str(corpus_dir)))) == (
        f"model_dir ({nowhere}): is not a directory; give the export of a run, e.g. runs/demo/latest/export"
    )
    assert str(nowhere) in refusal(EvalJob(model_dir=str(export_dir), data=DataDirConfig(dir=str(nowhere))))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SuiteConfig(window_tokens=0), "suite.window_tokens (0): must be at least 1"),
        (lambda: SuiteConfig(num_items=0), "suite.num_items (0): must be at least 1"),
        (
            lambda: SuiteConfig(window_tokens=8, stride_tokens=9),
            "suite.stride_tokens (9): must be at most suite.window_tokens (8), or tokens between windows would not be "
            "scored",
        ),
        (lambda: SuiteConfig(limit=0), "suite.limit (0): must be at least 1"),
        (lambda: SuiteConfig(samples=0), "suite.samples (0): must be at least 1"),
    ],
)
def test_wrong_settings_are_named(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_the_result_goes_beside_the_export():
    assert EvalJob(model_dir="runs/x/y/export").result_path == Path("runs/x/y/eval.json")
    assert EvalJob(model_dir="runs/x/y/export/").result_path == Path("runs/x/y/eval.json")
    assert EvalJob(model_dir="models/minitron").result_path == Path("models/minitron/eval.json")
    assert EvalJob(model_dir="runs/x/y/export", out="a").result_path == Path("a/eval.json")
    suite = SuiteConfig(name="mine", heldout=False)
    assert EvalJob(model_dir="runs/x/y/export", suite=suite).result_path == Path("runs/x/y/eval/mine/eval.json")
    assert EvalJob(model_dir="models/minitron", suite=suite).out_path == Path("models/minitron/eval/mine")


def model_of(directory, **provenance):
    directory.mkdir(parents=True)
    (directory / "provenance.json").write_text(json.dumps(provenance))
    return directory


def result_path(model_dir):
    return EvalJob(model_dir=str(model_dir)).result_path


def test_the_run_of_a_model_is_known_by_its_provenance(tmp_path, monkeypatch):
    ours, other = tmp_path / "runs/a", tmp_path / "runs/b"
    for run, name in ((ours, "a" * 32), (other, "b" * 32)):
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"id": name}))
    of_ours = {"run_id": "a" * 32, "run_directory": str(ours)}
    assert result_path(model_of(ours / "final", **of_ours)) == ours / "eval.json"
    assert result_path(model_of(tmp_path / "elsewhere", **of_ours)) == ours / "eval.json"
    assert result_path(model_of(other / "export", **of_ours)) == ours / "eval.json"
    monkeypatch.chdir(ours / "final")
    assert result_path(".") == ours / "eval.json"
    moved = ours.rename(tmp_path / "moved")
    assert result_path(moved / "final") == moved / "eval.json"
    for alone in (tmp_path / "elsewhere", other / "export"):  # what it was exported from is not there any more
        assert result_path(alone) == alone / "eval.json"
    ours.mkdir()
    (ours / "run.json").write_text("cut")
    assert result_path(tmp_path / "elsewhere") == tmp_path / "elsewhere/eval.json"
    assert result_path(model_of(other / "old/export", job_digest="c")) == other / "old/eval.json"  # as before
    (tmp_path / "elsewhere/provenance.json").write_text("cut")
    with pytest.raises(ValueError) as error:
        result_path(tmp_path / "elsewhere")
    assert str(error.value) == (
        f"model_dir ({tmp_path}/elsewhere): its provenance.json cannot be read (Expecting value: line 1 column 1"
        " (char 0)); export it again"
    )


def test_a_domain_that_would_take_the_place_of_other_figures_is_refused():
    class Reserved:
        dir, heldout_names = "in memory", ["law/statutes", "tokens/web"]

    with pytest.raises(ValueError) as error:
        read_heldout(Reserved())
    assert str(error.value) == (
        "data.dir (in memory): the domain of source tokens/web is a name reserved in result files"
        " (overall, sources, step, tokens, drawn_tokens); prepare the corpus again with another name"
    )


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "eval.json"
    write_result({"a": 1}, path)
    with pytest.raises(TypeError):
        write_result({"a": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}


def test_what_a_result_replaces_is_named_where_it_is_of_something_else(tmp_path):
    path = tmp_path / "eval.json"
    new = {"bits_per_byte": {"overall": 1.0}, "checkpoint": "step-00000012", "suite": "demo", "bytes": 5_000}
    assert replaced_result(new, path) is None
    write_result(new, path)
    assert replaced_result(new | {"tasks": {}}, path) is None
    assert replaced_result(new | {"bytes": 500}, path) == "step-00000012 (suite demo, 5000 bytes)"
    assert replaced_result(new | {"checkpoint": "step-00000008"}, path) == "step-00000012 (suite demo, 5000 bytes)"
    path.write_bytes(path.read_bytes()[:40])
    assert replaced_result(new, path) == "a model, which cannot be read any more,"


def test_a_result_replaces_a_result_only(tmp_path):
    write_result({"bits_per_byte": {"overall": 1.0}}, tmp_path / "eval.json")
    check_output(tmp_path / "eval.json")
    check_output(tmp_path / "new.json")
    notes = tmp_path / "notes" / "eval.json"
    notes.parent.mkdir()
    notes.write_text("{}")
    assert refusal(EvalJob(model_dir="nowhere", out=str(notes.parent))) == (
        f"out ({notes}): exists and is not a result of eval; give another directory as out, or move it away"
    )
    with pytest.raises(ValueError) as error:
        EvalJob(model_dir="nowhere", out="")
    assert str(error.value) == "out (''): must name a directory; leave it out for the model's run"


def test_what_only_the_end_would_meet_is_refused_before_scoring(corpus_dir, export_dir, tmp_path, monkeypatch):
    def score(*args, **kwargs):
        raise AssertionError("scored first")

    monkeypatch.setattr("nemotron4_eval.heldout.measure.score_heldout", score)
    places = {"model_dir": str(export_dir), "data": DataDirConfig(dir=str(corpus_dir))}
    file = tmp_path / "file"
    file.touch()
    assert refusal(EvalJob(**places, out=str(file))) == (
        f"out ({file}): is not a directory; give the directory of the results"
    )
    assert refusal(EvalJob(**places, out=str(file / "in"))) == (
        f"out ({file}/in/eval.json): {file} is not a writable directory; give another path"
    )
    task = tmp_path / "task.yaml"
    task.write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: missing.json}\noutput_type: none_such\n"
    )
    assert refusal(EvalJob(**places, suite=SuiteConfig(tasks=[str(task)]))).startswith(
        f"suite.tasks ({task}): the harness cannot load it ("
    )
    few = SuiteConfig(tasks=["heldout_continuation"], max_bytes_per_source=1)
    assert refusal(EvalJob(**places, suite=few)).startswith("suite.tasks (heldout_continuation): needs 4 held-out")


def test_a_full_disk_takes_the_file_but_not_the_table(corpus_dir, export_dir, tmp_path, capsys):
    suite = SuiteConfig(max_bytes_per_source=1_000, window_tokens=64, stride_tokens=64)
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError) as caught:
            run_eval(
                EvalJob(model_dir=str(export_dir), data=DataDirConfig(dir=str(corpus_dir)), suite=suite, out=str(out))
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == f"{out}/eval.json: File too large; make room, or give another out"
    assert "english/books" in capsys.readouterr().out
