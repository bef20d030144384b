"""From raw text to a report by the command line alone, and the export in transformers."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from verb import nemotron4

from nemotron4_data import Tokenizer
from nemotron4_model import load_pretrained

SMOKE = ("experiment=smoke", "data.dir=data/tiny", "model.vocab_size=1024")


@pytest.fixture(scope="module")
def run(workspace):
    nemotron4("train", *SMOKE, cwd=workspace)
    for _ in range(2):  # a second export takes the place of the first
        nemotron4("export", "run=runs/smoke/latest", cwd=workspace)
    nemotron4(
        "eval", "model_dir=runs/smoke/latest/export", "data.dir=data/tiny", "suite.window_tokens=64",
        "suite.num_items=8", cwd=workspace,
    )  # fmt: skip
    nemotron4("report", "run=runs/smoke/latest", cwd=workspace)
    return workspace / "runs" / "smoke" / "latest"


def test_the_run_directory_holds_what_is_promised(run):
    names = {path.name for path in run.iterdir()}
    assert {"job.yaml", "run.json", "metrics.csv", "checkpoints", "export", "report.html", "report.json"} <= names
    assert {"tokenizer.model", "eval.json"} <= names
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("step", "tokens", "loss", "lr", "global_batch_size", "phase", "grad_norm", "skipped"),
        *("tokens_per_second", "mfu", "peak_memory_bytes"),
    ]
    assert {row["phase"] for row in rows} == {"warmup", "main", "continued"}


def test_the_report_has_the_measured_figures(run):
    report = json.loads((run / "report.json").read_text())
    evaluation = json.loads((run / "eval.json").read_text())
    assert report["bits_per_byte"] == {
        name: evaluation["bits_per_byte"][name] for name in ("overall", "english", "multilingual", "code")
    }
    assert report["gzip_bits_per_byte"] == evaluation["gzip_bits_per_byte"]["overall"]
    assert report["xz_bits_per_byte"] == evaluation["xz_bits_per_byte"]["overall"]
    assert report["tokens"] == 10 * 4 * 64 + 20 * 8 * 64
    assert report["parameters"] == sum(p.numel() for p in load_pretrained(run / "export").parameters())
    task = report["tasks"]["heldout_continuation"]
    assert (task["metric"], task["items"]) == ("acc", 8)
    assert 0 <= task["value"] <= 1
    page = (run / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert f"{report['bits_per_byte']['overall']:.3f}" in page


def test_the_export_is_the_model_in_transformers(run):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run / "export", dtype=torch.float32)
    ours = load_pretrained(run / "export")
    tokens = torch.tensor([Tokenizer(run / "export" / "tokenizer.model").encode("the words of a document")])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), atol=1e-4, rtol=1e-4)


def test_transformers_generates_what_generate_prints(workspace, run):
    """Offline, by the Auto classes alone; a document starts after the end of the one before, as in training."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(run / "export", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "export")
    for prompt in ("the words", "  x = 12\n", "été 日本"):
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(prompt)["input_ids"]]])
        theirs = model.generate(ids, max_new_tokens=24, do_sample=False, attention_mask=torch.ones_like(ids))
        text = tokenizer.decode(theirs[0], skip_special_tokens=True)
        ours = nemotron4(
            "generate", f"model_dir={run}/export", f"prompt='{prompt}'", "sampling=greedy",
            "sampling.max_new_tokens=24", "dtype=fp32", cwd=workspace,
        )  # fmt: skip
        assert ours.stdout.rstrip("\n") == text.rstrip("\n")


def test_generate_streams_text_after_the_prompt(workspace, run):
    done = nemotron4(
        "generate", f"model_dir={run}/export", "prompt=the words", "sampling=greedy", "sampling.max_new_tokens=8",
        cwd=workspace,
    )  # fmt: skip
    assert done.stdout.startswith("the words")
    again = nemotron4(
        "generate", f"model_dir={run}/export", "prompt=the words", "sampling=greedy", "sampling.max_new_tokens=8",
        cwd=workspace,
    )  # fmt: skip
    assert again.stdout == done.stdout


def test_plan_shows_the_timeline(workspace):
    shown = nemotron4("plan", "experiment=nemotron4_15b", cwd=workspace).stdout
    for text in ("15,628,775,424", "12 x 8 x 8", "batch_1152", "1,610,650", "runs/nemotron4_15b/plan.png"):
        assert text in shown
    assert (workspace / "runs/nemotron4_15b/plan.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_shard_is_named_and_a_rerun_mends_it(workspace, tmp_path):
    import shutil

    shutil.copytree(workspace / "data", tmp_path / "data")
    shutil.copytree(workspace / "raw", tmp_path / "raw")
    shard = tmp_path / "data" / "tiny" / "tokens" / "english" / "books.train.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    refused = nemotron4("train", *SMOKE, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "tokens/english/books.train.bin" in refused.stderr
    assert "Traceback" not in refused.stderr
    nemotron4(
        "prepare", "corpus=files", "corpus.name=tiny", "corpus.files=[raw/*.jsonl]", "tokenizer.vocab_size=1024",
        cwd=tmp_path,
    )  # fmt: skip
    assert shard.read_bytes() == (workspace / "data" / "tiny" / "tokens" / "english" / "books.train.bin").read_bytes()


def test_verify_computes_the_ledger_again_and_names_a_change(workspace, run):
    shown = nemotron4("data", "verify", "data.dir=data/tiny", "run=runs/smoke/latest", cwd=workspace).stdout
    assert "200 samples match the ledger" in " ".join(shown.split())
    ledger = max((run / "checkpoints").glob("step-*/ledger.json"))
    changed = workspace / "changed.json"
    changed.write_text(ledger.read_text().replace('"samples": 200', '"samples": 201'))
    done = nemotron4("data", "verify", "data.dir=data/tiny", "ledger=changed.json", cwd=workspace, check=False)
    assert done.returncode == 2
    assert done.stderr == "nemotron4 data verify: changed.json: samples is 201, but its timeline has 200\n"


def test_too_many_epochs_are_refused_before_a_worker_starts(workspace, run):
    done = nemotron4("train", *SMOKE, "topology=cpu_2x1", "blend.max_epochs=0.01", cwd=workspace, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("nemotron4 train: blend.max_epochs (0.01): the timeline would read ")
    shown = nemotron4("plan", *SMOKE, "blend.max_epochs=0.01", cwd=workspace, check=False)
    assert shown.returncode == 2
    assert "epochs over the timeline" in shown.stdout


def test_the_program_is_installed(workspace):
    done = subprocess.run(
        [sys.executable, "-m", "nemotron4_config.main", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("nemotron4 0.")
