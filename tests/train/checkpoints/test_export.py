"""Exports: what they hold, what they replace, and what they are when a signal ends them."""

import dataclasses
import hashlib
import json
import pickle
import shutil

import checkpoint_worker as worker
import pytest
import torch
from safetensors.torch import load_file
from smoke import smoke_job

from nemotron4_common.staging import file_sha256
from nemotron4_data import Corpus
from nemotron4_data.data_config import DataDirConfig
from nemotron4_data.manifest import TOKENIZER_FILE, Manifest
from nemotron4_data.verify import VerifyJob, verify
from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.weights.load import load_engine_weights
from nemotron4_model import DType, ModelConfig, Transformer, save_pretrained
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.export import ExportJob, export_checkpoint
from nemotron4_train.job import DataConfig
from nemotron4_train.run_directory import read_record

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
    "ignore:torch.distributed is disabled:UserWarning",
)


def test_export_equals_the_model_in_memory(undisturbed, tmp_path):
    job, directory = undisturbed
    path = reading.checkpoint_directory(directory, 8)
    export_checkpoint(
        ExportJob(run=str(directory), checkpoint=str(path), dir=str(tmp_path / "sharded"), max_shard_bytes=30_000),
        job,
    )
    model = Transformer(job.model)
    reading.load(path, model, [torch.optim.AdamW(model.parameters())])
    save_pretrained(model, tmp_path / "whole", dtype=torch.float32)
    files = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 3
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    found = {name: (file.name, tensor) for file in files for name, tensor in load_file(file).items()}
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert found.keys() == whole.keys()
    for name, (file, tensor) in found.items():
        assert index["weight_map"][name] == file
        assert torch.equal(tensor, whole[name]), name
    provenance = json.loads((tmp_path / "sharded" / "provenance.json").read_text())
    assert (provenance["step"], provenance["job_digest"]) == (8, job.digest())
    assert provenance["manifest_digest"] == Corpus.open(job.data.dir).manifest_digest
    verify(VerifyJob(data=DataDirConfig(dir=job.data.dir), model_dir=str(tmp_path / "sharded")))


def test_export_checks_the_files_that_it_reads(undisturbed, tmp_path):
    without, moved = moved_run(undisturbed, tmp_path)
    checkpoint = reading.checkpoint_directory(moved, 12)
    weights, rest = sorted(checkpoint.glob("*.distcp"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    job = ExportJob(run=str(moved), checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match=f"{weights}: damaged"):
        export_checkpoint(job, without)
    weights.write_bytes(content)
    rest.unlink()
    export_checkpoint(job, without)
    with pytest.raises(ValueError, match=f"{rest}: missing"):
        reading.verify(checkpoint)


def test_a_quantised_export_is_what_quantising_the_whole_one_gives(undisturbed, tmp_path):
    job, directory = undisturbed
    shutil.copytree(directory, tmp_path / "run")
    cpu = {"dtype": torch.bfloat16, "device": torch.device("cpu")}
    whole = export_checkpoint(ExportJob(run=str(directory), dir=str(tmp_path / "whole")), job)
    found = export_checkpoint(ExportJob(run=str(tmp_path / "run"), quantization=Quantisation.int8), job)
    assert found == tmp_path / "run" / "export-int8"
    stored = load_file(found / "model.safetensors")
    assert stored["model.layers.0.self_attn.q_proj.weight"].dtype is torch.int8
    assert stored["model.layers.0.self_attn.q_proj.weight_scale"].shape == (job.model.query_width, 1)
    assert stored["model.embed_tokens.weight"].dtype is torch.bfloat16
    mine = load_engine_weights(found, **cpu)
    theirs = load_engine_weights(whole, quantization=Quantisation.int8, **cpu)
    x_ND = torch.randn(3, job.model.hidden_size).bfloat16()
    for ours, expected in [(mine.blocks[0].qkv, theirs.blocks[0].qkv), (mine.head, theirs.head)]:
        assert torch.equal(ours(x_ND), expected(x_ND))
    config = json.loads((found / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "nemotron4", "format": "int8"}
    assert json.loads((found / "provenance.json").read_text())["quantization"] == "int8"
    readme = (found / "README.md").read_text()
    assert "The linear weights are quantised to int8, in a layout of nemotron4's own" in readme
    assert "parameters in\nint8 and bf16, " in readme
    assert "## vLLM" not in readme
    again = ExportJob(run=str(tmp_path / "run"), quantization=Quantisation.int8, dtype=DType.fp32)
    export_checkpoint(again, job)  # replaces it
    assert load_file(found / "model.safetensors")["model.embed_tokens.weight"].dtype is torch.float32


def test_export_refusals(undisturbed, tmp_path):
    job, directory = undisturbed
    with pytest.raises(ValueError, match=r"^checkpoint \(nowhere\): not a complete checkpoint \(it has no manifest"):
        export_checkpoint(ExportJob(run=str(directory), checkpoint="nowhere"), job)
    other = dataclasses.replace(job, model=dataclasses.replace(job.model, rope_theta=5e5))
    with pytest.raises(ValueError, match=r"^model.rope_theta \(500000.0\): .* was trained with 10000.0; choose"):
        export_checkpoint(ExportJob(run=str(directory), dir=str(tmp_path / "x")), other)
    with pytest.raises(ValueError, match=r"^max_shard_bytes \(0\): must be at least 1$"):
        ExportJob(run="x", max_shard_bytes=0)


def moved_run(undisturbed, tmp_path):
    """A copy of the run, as its job and its directory: the corpus that the job names is gone."""
    job, directory = undisturbed
    (tmp_path / "moved").mkdir()
    for name in ("run.json", "tokenizer.model", "checkpoints/step-00000012"):
        copy = shutil.copytree if (directory / name).is_dir() else shutil.copyfile
        copy(directory / name, tmp_path / "moved" / name)
    return dataclasses.replace(job, data=DataConfig(dir=str(tmp_path / "gone"))), tmp_path / "moved"


def test_a_moved_run_exports_without_its_corpus(undisturbed, tmp_path):
    job, directory = undisturbed
    without, moved = moved_run(undisturbed, tmp_path)
    record = read_record(directory)
    assert (moved / "tokenizer.model").read_bytes() == Corpus.open(job.data.dir).tokenizer.path.read_bytes()
    assert record.tokenizer == Corpus.open(job.data.dir).tokenizer_digest
    export_checkpoint(ExportJob(run=str(directory), dir=str(tmp_path / "here")), job)
    export_checkpoint(ExportJob(run=str(moved)), without)
    provenance = json.loads((moved / "export/provenance.json").read_text())
    assert provenance == json.loads((tmp_path / "here/provenance.json").read_text()) | {"run_directory": str(moved)}
    assert provenance["run_id"] == record.id
    for name in set(provenance["files"]) - {"provenance.json"}:
        assert (moved / "export" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name


def test_the_tokenizer_of_an_export_is_that_of_the_ledger(undisturbed, tmp_path):
    job, _ = undisturbed
    without, moved = moved_run(undisturbed, tmp_path)
    asked = Corpus.open(job.data.dir).tokenizer_digest[:12]
    (moved / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(ValueError) as error:
        export_checkpoint(ExportJob(run=str(moved)), without)
    assert str(error.value) == (
        f"run ({moved}): its tokenizer.model is {hashlib.sha256(b'another').hexdigest()[:12]}, but the checkpoint was"
        f" trained with {asked}; restore that file, or remove it to use the one of data.dir"
    )
    (moved / "tokenizer.model").unlink()  # as a run of an older version
    with pytest.raises(ValueError) as error:
        export_checkpoint(ExportJob(run=str(moved)), without)
    assert str(error.value) == (
        f"run ({moved}): has no tokenizer.model, and data.dir ({tmp_path}/gone) does not exist; restore that corpus, or"
        f" copy its tokenizer/tokenizer.model to {moved}/tokenizer.model"
    )
    other = with_another_tokenizer(job, tmp_path)
    with pytest.raises(ValueError) as error:
        export_checkpoint(ExportJob(run=str(moved)), dataclasses.replace(job, data=DataConfig(dir=str(other))))
    assert str(error.value) == (
        f"data.dir ({other}): its tokenizer is {Corpus.open(other).tokenizer_digest[:12]}, but the checkpoint was"
        f" trained with {asked}; restore the corpus that the run read"
    )
    export_checkpoint(ExportJob(run=str(moved)), job)
    assert (moved / "export/tokenizer.model").read_bytes() == Corpus.open(job.data.dir).tokenizer.path.read_bytes()


def with_another_tokenizer(job, tmp_path):
    """A corpus whose manifest says that its tokenizer is another one."""
    other = tmp_path / "other"
    shutil.copytree(job.data.dir, other)
    with open(other / TOKENIZER_FILE, "ab") as file:
        file.write(b"\n")
    manifest = Manifest.load(other)
    manifest.stages["tokenizer"].files[TOKENIZER_FILE] = file_sha256(other / TOKENIZER_FILE)
    manifest.stages["tokens"].upstream = manifest.upstream("tokens")
    manifest.save(other)
    return other


def test_an_export_replaces_its_own_files_only(undisturbed, tmp_path):
    job, directory = undisturbed
    export = ExportJob(run=str(directory), dir=str(tmp_path / "export"))
    (tmp_path / "export").mkdir()
    export_checkpoint(export, job)
    written = {path.name for path in (tmp_path / "export").iterdir()}
    provenance = json.loads((tmp_path / "export/provenance.json").read_text())
    assert set(provenance.pop("files")) == written
    (tmp_path / "export/notes.txt").write_text("mine")
    with pytest.raises(ValueError) as error:
        export_checkpoint(export, job)
    assert str(error.value) == (
        f"dir ({tmp_path}/export): would be replaced, and {tmp_path}/export/notes.txt would be lost: move it elsewhere"
    )
    assert {path.name for path in (tmp_path / "export").iterdir()} == {*written, "notes.txt"}
    (tmp_path / "export/notes.txt").unlink()
    (tmp_path / "export/provenance.json").write_text(json.dumps(provenance))  # as an older version wrote it
    export_checkpoint(export, job)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    into = reading.checkpoint_directory(directory, 12)
    with pytest.raises(ValueError) as error:
        export_checkpoint(ExportJob(run=str(directory), dir=str(into / "export")), job)
    assert str(error.value) == (f"dir ({into}/export): is inside checkpoint ({into}): choose another dir")


@pytest.mark.parametrize(
    ("name", "status", "how", "most"), [("SIGINT", 130, "interrupted", 5), ("SIGTERM", 143, "ended by SIGTERM", 20)]
)
def test_a_signal_leaves_an_export_whole_and_nothing_beside_it(undisturbed, tmp_path, name, status, how, most):
    """At any moment: also between the old one's rename and the new one's."""
    job, directory = undisturbed
    export = ExportJob(run=str(directory), dir=str(tmp_path / "out" / "export"))
    arguments = (pickled(tmp_path / "export.pickle", (export, job)), name, str(most))
    found = json.loads(worker.python("import sys, signal_at; signal_at.main(*sys.argv[1:])", *arguments))
    assert len(found) >= most
    said = f"nemotron4 export: {how}; run the same command again to resume\n"
    for ended in found:
        # A signal after the last rename finds the new export in its place, and the command's own line was said.
        assert ended == [status, said, True, ["export"]]


def test_an_edited_readme_is_not_replaced(undisturbed, tmp_path):
    job, directory = undisturbed
    export = ExportJob(run=str(directory), dir=str(tmp_path / "e"))
    export_checkpoint(export, job)
    export_checkpoint(export, job)
    (tmp_path / "e" / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError) as error:
        export_checkpoint(export, job)
    assert str(error.value) == (
        f"dir ({tmp_path}/e): would be replaced, and {tmp_path}/e/README.md would be lost: move it elsewhere"
    )
    assert (tmp_path / "e" / "README.md").read_text() == "# Mine\n"


def test_export_holds_a_file_and_a_few_tensors_in_memory(undisturbed, prepared, tmp_path):
    """Peak memory of exporting 256 MB of weights in files of 32 MB, beside that of the tiny model."""
    job, directory = undisturbed
    model = ModelConfig(
        vocab_size=4_096, hidden_size=1_024, intermediate_size=3_072, num_layers=7, num_attention_heads=8,
        num_key_value_heads=4, max_sequence_length=64,
    )  # fmt: skip
    big = dataclasses.replace(smoke_job(prepared, tmp_path), model=model)
    ledger = (reading.checkpoint_directory(directory, 12) / "ledger.json").read_bytes()
    worker.python("import sys; import checkpoint_worker; checkpoint_worker.save_model(*sys.argv[1:])",
           pickled(tmp_path / "big.pickle", (str(tmp_path / "big"), model, ledger)))  # fmt: skip
    script = "import sys; import checkpoint_worker; print(checkpoint_worker.memory_of_export(sys.argv[1]))"
    peaks = [
        float(worker.python(script, pickled(tmp_path / f"{name}.pickle", (export, train_job))))
        for name, export, train_job in (
            ("tiny", ExportJob(run=str(directory), dir=str(tmp_path / "tiny")), job),
            ("big", ExportJob(run=str(tmp_path / "big"), max_shard_bytes=32_000_000), big),
        )
    ]
    total = sum(file.stat().st_size for file in (tmp_path / "big" / "export").glob("*.safetensors"))
    assert total > 250e6
    assert peaks[1] - peaks[0] < 32 + 3 * 16.8  # MB: a file, and the largest tensor as read, as stored and as copied


def pickled(path, value):
    path.write_bytes(pickle.dumps(value))
    return str(path)
