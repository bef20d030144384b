"""Corpora that changed after they were prepared, and corpora made of the shards of others."""

import json
import shutil

import numpy as np
import pytest

from nemotron4_data import Corpus
from nemotron4_data.adopt import AdoptJob, adopt
from nemotron4_data.shards import ShardWriter
from nemotron4_data.staging import file_sha256
from nemotron4_data.verify import VerifyJob, verify

SHARD = "tokens/english/web.train"


@pytest.fixture
def copy(corpus, tmp_path):
    shutil.copytree(corpus.dir, tmp_path / "copy")
    return tmp_path / "copy"


def refused(directory, **fields):
    with pytest.raises(ValueError) as error:
        verify(VerifyJob(dir=str(directory), **fields))
    return str(error.value)


def rewrite(directory, change):
    """Change the manifest, with new digests of its files."""
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    for stage in manifest["stages"].values():
        stage["files"] = {name: file_sha256(directory / name) for name in stage["files"]}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)


def test_a_whole_corpus_passes_and_is_shown(copy, capsys):
    verify(VerifyJob(dir=str(copy)))
    assert "english/web" in capsys.readouterr().out


def test_a_changed_shard_is_named(copy):
    flip_a_byte(copy / f"{SHARD}.bin")
    message = refused(copy)
    assert message.startswith(f"{copy}/{SHARD}.bin: SHA-256 is ")
    with pytest.raises(ValueError, match=r"web\.train\.bin: SHA-256 is"):
        Corpus.open(copy, verify=True)


def test_a_second_look_hashes_what_changed_only(copy, monkeypatch):
    Corpus.open(copy, verify=True)
    hashed = []
    monkeypatch.setattr("nemotron4_data.corpus.check_files", lambda directory, files: hashed.extend(files))
    Corpus.open(copy, verify=True)
    assert hashed == ["tokenizer/tokenizer.model"]
    content = (copy / f"{SHARD}.bin").read_bytes()
    (copy / f"{SHARD}.bin").write_bytes(content)
    Corpus.open(copy, verify=True)
    assert hashed[1:] == ["tokenizer/tokenizer.model", f"{SHARD}.bin"]


def test_another_tokenizer_is_refused_without_hashing_the_shards(copy):
    flip_a_byte(copy / "tokenizer" / "tokenizer.model")
    with pytest.raises(ValueError, match=r"tokenizer\.model: SHA-256 is .* but the manifest says"):
        Corpus.open(copy)


def test_a_manifest_of_another_count_is_refused(copy):
    def change(manifest):
        manifest["stages"]["tokens"]["facts"]["sources"]["english/web"]["train"]["documents"] += 1

    rewrite(copy, change)
    documents = len(Corpus.open(copy).shard("english/web", "train"))
    assert refused(copy) == (
        f"{copy}/{SHARD}: {documents} documents, but the manifest says {documents + 1}: prepare the corpus again"
    )


def write_shard(stem, documents):
    writer = ShardWriter(stem, np.dtype("<u2"))
    for document in documents:
        writer.append(np.array(document), np.array([len(document)], dtype=np.int32))
    writer.close()


def test_shards_of_others_become_a_corpus_as_they_are(corpus, tmp_path):
    encode = [corpus.tokenizer.encode(text) for text in ("the words of a document", "été 日本", "x = 1\n")]
    documents = [[*ids, corpus.tokenizer.eos_id] for ids in encode]
    write_shard(tmp_path / "a", documents)
    write_shard(tmp_path / "b", documents[:1])
    job = AdoptJob(
        dir=str(tmp_path / "adopted"),
        tokenizer_model=str(corpus.tokenizer.path),
        train=[f"english/web/a:{tmp_path}/a", f"english/web/b:{tmp_path}/b"],
        heldout=[f"english/web/a:{tmp_path}/b"],
    )
    adopt(job)
    found = Corpus.open(job.dir, verify=True)
    assert found.num_train_tokens == {"english/web/a": sum(map(len, documents)), "english/web/b": len(documents[0])}
    assert found.train("english/web/a").tolist() == [token for document in documents for token in document]
    assert found.heldout("english/web/a").texts == [b"the words of a document"]
    num_bytes = sum(len(text.encode()) for text in ("the words of a document", "été 日本", "x = 1\n"))
    assert found.sizes("english/web/a", "train") == {
        "documents": 3,
        "tokens": sum(map(len, documents)),
        "bytes": num_bytes,
    }
    with pytest.raises(ValueError) as error:
        adopt(job)
    assert str(error.value) == f"dir ({job.dir}): holds a corpus already: give another dir, or remove it"


def test_shards_of_another_tokenizer_are_refused(corpus, tmp_path):
    write_shard(tmp_path / "a", [[5, corpus.vocab_size]])
    with pytest.raises(ValueError, match=rf"token ids from 5 to {corpus.vocab_size}, outside the {corpus.vocab_size}"):
        adopt(
            AdoptJob(
                dir=str(tmp_path / "adopted"),
                tokenizer_model=str(corpus.tokenizer.path),
                train=[f"english/web:{tmp_path}/a"],
            )
        )
    assert not (tmp_path / "adopted").exists()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "train ([]) must name at least one shard: pass 'train=[english/web:PATH]'"),
        (["web:a"], "train (web:a) must be SOURCE:PATH with a source such as english/web"),
        (["english/..:a"], "train (english/..:a) must be SOURCE:PATH with a source such as english/web"),
        (["a/b:c", "a/b:d"], "train names a/b twice: give each shard a source such as a/b/1"),
    ],
)
def test_wrong_jobs_are_refused(train, message):
    with pytest.raises(ValueError) as error:
        AdoptJob(dir="d", tokenizer_model="t", train=train)
    assert str(error.value) == message


def test_a_missing_shard_is_named(corpus, tmp_path):
    job = AdoptJob(dir=str(tmp_path / "d"), tokenizer_model=str(corpus.tokenizer.path), train=["a/b:nowhere/x"])
    with pytest.raises(ValueError, match=r"^train \(a/b:nowhere/x\): no such shard: .*/nowhere/x\.bin is missing$"):
        adopt(job)
