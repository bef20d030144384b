"""Corpora that changed after they were prepared, and corpora made from foreign shards."""

import io
import json
import re
import shutil

import numpy as np
import pytest
import sentencepiece as spm

from nemotron4_common.staging import file_sha256
from nemotron4_data import Corpus, Tokenizer, run_prepare
from nemotron4_data.adopt import AdoptJob, adopt
from nemotron4_data.data_config import DataDirConfig
from nemotron4_data.documents import read_lines
from nemotron4_data.manifest import Manifest
from nemotron4_data.shards import ShardWriter
from nemotron4_data.verify import VerifyJob, verify

SHARD = "tokens/english/web.train"


@pytest.fixture
def copy(corpus, tmp_path):
    shutil.copytree(corpus.dir, tmp_path / "copy")
    return tmp_path / "copy"


def refused(directory, **fields):
    with pytest.raises(ValueError) as error:
        verify(VerifyJob(data=DataDirConfig(dir=str(directory)), **fields))
    return str(error.value)


def rewrite(directory, change):
    """Change the manifest's stages, with new digests of its files and of itself."""
    manifest = Manifest.load(directory)
    change(manifest.stages)
    for stage in manifest.stages.values():
        stage.files = {name: file_sha256(directory / name) for name in stage.files}
    manifest.save(directory)


def counts_of(stages):
    return stages["tokens"].facts["sources"]["english/web"]["train"]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)


def test_a_whole_corpus_passes_and_is_shown(copy, capsys):
    verify(VerifyJob(data=DataDirConfig(dir=str(copy))))
    assert "english/web" in capsys.readouterr().out


def test_a_changed_shard_is_named(copy):
    flip_a_byte(copy / f"{SHARD}.bin")
    message = refused(copy)
    assert message.startswith(f"{copy}/{SHARD}.bin: SHA-256 is ")
    with pytest.raises(ValueError, match=r"web\.train\.bin: SHA-256 is"):
        Corpus.open(copy, verify=True)


def test_a_second_check_hashes_only_what_changed(copy, monkeypatch):
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
    found = Corpus.open(copy).sizes("english/web")
    for field in ("documents", "tokens", "bytes"):
        rewrite(copy, lambda stages, field=field: counts_of(stages).update({**found, field: found[field] + 1}))
        assert refused(copy) == (
            f"{copy}/{SHARD}: {found[field]} {field}, but the manifest says {found[field] + 1}; prepare the corpus"
            " again"
        )


def edit_manifest(directory, change):
    """A forger who knows that the manifest records digests of files, but not that it records one of itself."""
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest["stages"]["tokens"])
    (directory / "manifest.json").write_text(json.dumps(manifest))


def change_a_count(stage):
    stage["facts"]["sources"]["english/web"]["train"]["bytes"] += 1


@pytest.mark.parametrize("what", ["tokens and their SHA-256", "bytes"])
def test_a_changed_manifest_is_refused_and_rebuilt(copy, corpus, raw_directory, make_job, what, capsys):
    if what == "bytes":
        edit_manifest(copy, change_a_count)
    else:
        flip_a_byte(copy / f"{SHARD}.bin")
        digest = file_sha256(copy / f"{SHARD}.bin")
        edit_manifest(copy, lambda stage: stage["files"].update({f"{SHARD}.bin": digest}))
    assert refused(copy) == (
        f"{copy}/manifest.json: its digests show that stage tokens was changed after it was written; put the file "
        "back, or make the corpus again"
    )
    with pytest.raises(ValueError, match="stage tokens was changed"):
        Corpus.open(copy)
    run_prepare(make_job(raw_directory, copy))
    assert "tokens: rebuilding, because its part of the manifest was changed" in capsys.readouterr().err
    assert Corpus.open(copy, verify=True).manifest_digest == corpus.manifest_digest


def test_older_manifests_without_a_digest_of_counts_are_read(copy, corpus):
    manifest = json.loads((copy / "manifest.json").read_text())
    for stage in manifest["stages"].values():
        del stage["content"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    verify(VerifyJob(data=DataDirConfig(dir=str(copy))))
    assert Corpus.open(copy).digest == corpus.digest


def test_the_corpus_of_a_model_is_checked_by_its_provenance(copy, corpus, tmp_path, capsys):
    path = tmp_path / "export" / "provenance.json"
    job = VerifyJob(data=DataDirConfig(dir=str(copy)), model_dir=str(path.parent))
    with pytest.raises(ValueError) as error:
        verify(job)
    assert str(error.value) == (
        f"model_dir ({path.parent}): has no provenance.json; give a directory that `nemotron4 export` made"
    )
    path.parent.mkdir()
    for damaged in ("", "5", "[1]", '"x"'):
        path.write_text(damaged)
        message = refused(copy, model_dir=str(path.parent))
        assert message.startswith(f"{path}: not the provenance of a model (")
        assert message.endswith("); export the model again")
    provenance = {"corpus_digest": corpus.digest, "manifest_digest": corpus.manifest_digest}
    path.write_text(json.dumps(provenance))
    verify(job)
    path.write_text(json.dumps({"corpus_digest": corpus.digest}))
    capsys.readouterr()
    verify(job)
    assert f"{path} is of an older version, without the manifest's digest" in capsys.readouterr().err
    for name in provenance:
        path.write_text(json.dumps({**provenance, name: "f" * 64}))
        assert refused(copy, model_dir=str(path.parent)) == (
            f"{path}: digest of the {name[:-7]} is ffffffffffff, but that of {copy} is {provenance[name][:12]}; give "
            f"the directory of the corpus that the model was trained on"
        )


def write_shard(stem, documents):
    writer = ShardWriter(stem, np.dtype("<u2"))
    for document in documents:
        writer.append(np.array(document), np.array([len(document)], dtype=np.int32))
    writer.close()


def test_foreign_shards_become_a_corpus_unchanged(corpus, tmp_path):
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
    assert str(error.value) == f"dir ({job.dir}): already holds a corpus; give another dir, or remove it"


def adopt_one(corpus, tmp_path, documents, **settings):
    """Adopt documents, given as ids, as english/web; returns the directory."""
    write_shard(tmp_path / "a", documents)
    settings.setdefault("tokenizer_model", str(corpus.tokenizer.path))
    adopt(AdoptJob(dir=str(tmp_path / "adopted"), train=[f"english/web:{tmp_path}/a"], **settings))
    return tmp_path / "adopted"


def refusal(corpus, tmp_path, documents, **settings):
    """The message after the shard's name; nothing was written."""
    with pytest.raises(ValueError) as error:
        adopt_one(corpus, tmp_path, documents, **settings)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    name, _, message = str(error.value).partition(f"{tmp_path}/a): ")
    assert name == "train (english/web:"
    return message


def texts(corpus, source="english/web"):
    path = corpus.dir / f"documents/{source}.train.jsonl.zst"
    return [json.loads(line)["text"] for line in read_lines(path)]


def test_shards_of_another_tokenizer_are_refused(corpus, tmp_path):
    outside = f"token ids from 5 to {corpus.vocab_size}, outside the {corpus.vocab_size} pieces of its tokenizer; "
    message = refusal(corpus, tmp_path, [[5, corpus.vocab_size]])
    assert message == outside + "it was made with another one"


@pytest.mark.parametrize("source", ["english/web", "multilingual/ja", "multilingual/el", "code/python"])
@pytest.mark.parametrize("settings", [{"model_type": "bpe", "byte_fallback": True}, {"model_type": "unigram"}])
def test_tokens_of_another_tokenizer_are_detected_by_their_text(corpus, tmp_path, source, settings):
    other = tmp_path / "other.model"
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts(corpus, source) for line in text.split("\n") if line]),
        model_writer=(writer := io.BytesIO()),
        vocab_size=600,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        **settings,
        character_coverage=1.0,
        minloglevel=2,
    )
    other.write_bytes(writer.getvalue())
    tokenizer = Tokenizer(other)
    made = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts(corpus, source)]
    message = refusal(corpus, tmp_path, made)
    found = re.fullmatch(
        rf"of {len(made)} sampled documents (\d+) get other tokens when their text is encoded again, such as .+; give "
        r"the tokenizer\.model that the shard was made with, or check_text=false if its tokens were sampled "
        r"\(BPE dropout\)",
        message,
        re.DOTALL,
    )
    assert int(found[1]) > len(made) / 2
    assert (
        Corpus.open(adopt_one(corpus, tmp_path, made, tokenizer_model=str(other))).tokenizer.sha256 == tokenizer.sha256
    )
    shutil.rmtree(tmp_path / "adopted")
    adopt_one(corpus, tmp_path, made, check_text=False)


def test_code_cjk_and_marked_up_documents_are_accepted(corpus, tmp_path):
    tokenizer = corpus.tokenizer
    turn = tokenizer.id_of("<extra_id_0>")
    made = [
        [tokenizer.bos_id, turn, *tokenizer.encode(text), turn, *tokenizer.encode("0x1f 🙂 #!/;\n\t"), tokenizer.eos_id]
        for source in corpus.source_names
        for text in texts(corpus, source)
    ]
    Corpus.open(adopt_one(corpus, tmp_path, made), verify=True)


def test_documents_without_eos_are_refused_or_given_one(corpus, tmp_path, monkeypatch):
    """Shards of Megatron's preprocessing without --append-eod."""
    monkeypatch.setattr("nemotron4_data.adopt._TOKENS_AT_ONCE", 50)
    tokenizer = corpus.tokenizer
    ids = [tokenizer.encode(text)[:70] for text in texts(corpus)[:9]]
    made = [*ids[:5], [*ids[5], tokenizer.eos_id], [], *ids[6:]]
    last = made[0][-1]
    assert refusal(corpus, tmp_path, made) == (
        f"9 of 10 documents do not end in the tokenizer's EOS, id 3 ('</s>'); document 0 ends in id {last} "
        f"({tokenizer.piece(last)!r}); pass append_eos=true to copy the shard with EOS appended to them"
    )
    before = (tmp_path / "a.bin").read_bytes()
    directory = adopt_one(corpus, tmp_path, made, append_eos=True)
    verify(VerifyJob(data=DataDirConfig(dir=str(directory))))
    shard = Corpus.open(directory, verify=True).shard("english/web", "train")
    ended = [document if document[-1:] == [3] else [*document, 3] for document in made]
    assert [shard[number].tolist() for number in range(len(shard))] == ended
    assert (tmp_path / "a.bin").read_bytes() == before
    assert not (directory / "tokens/english/web.train.bin").is_symlink()


def test_verify_names_documents_without_eos(copy):
    corpus = Corpus.open(copy)
    tokens = [
        (document[:-1] if number == 4 else document).tolist()
        for number, document in enumerate(corpus.shard("english/web", "train"))
    ]
    write_shard(copy / SHARD, tokens)

    rewrite(copy, lambda stages: counts_of(stages).update(tokens=counts_of(stages)["tokens"] - 1))
    assert refused(copy).startswith(
        f"{copy}/{SHARD}: 1 of 27 documents do not end in the tokenizer's EOS, id 3 ('</s>'); document 4 ends in id "
    )


def test_errors_name_the_files_that_were_given(corpus, tmp_path):
    job = {"dir": str(tmp_path / "adopted"), "train": [f"english/web:{tmp_path}/a"]}
    with pytest.raises(ValueError) as error:
        adopt(AdoptJob(**job, tokenizer_model="none.model"))
    assert str(error.value) == "tokenizer_model (none.model): no such file; give a SentencePiece tokenizer.model"
    (tmp_path / "a.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a.model: not a SentencePiece model: "):
        adopt(AdoptJob(**job, tokenizer_model=str(tmp_path / "a.model")))
    write_shard(tmp_path / "a", [[5, 3]])
    (tmp_path / "a.bin").write_bytes(b"cut")
    with pytest.raises(ValueError) as error:
        adopt(AdoptJob(**job, tokenizer_model=str(corpus.tokenizer.path)))
    expected = f"{tmp_path}/a.bin: 3 bytes, but its .idx says 4: truncated or changed; make or copy it again"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "train ([]): must name at least one shard; pass 'train=[english/web:PATH]'"),
        (["web:a"], "train (web:a): must be SOURCE:PATH with a source such as english/web"),
        (["english/..:a"], "train (english/..:a): must be SOURCE:PATH with a source such as english/web"),
        (["a/b:c", "a/b:d"], "train (a/b): is named twice; give each shard a source such as a/b/1"),
    ],
)
def test_wrong_jobs_are_refused(train, message):
    with pytest.raises(ValueError) as error:
        AdoptJob(dir="d", tokenizer_model="t", train=train)
    assert str(error.value) == message


def test_a_missing_shard_is_named(corpus, tmp_path):
    job = AdoptJob(dir=str(tmp_path / "d"), tokenizer_model=str(corpus.tokenizer.path), train=["a/b:nowhere/x"])
    with pytest.raises(ValueError, match=r"^train \(a/b:nowhere/x\): no such shard; .*/nowhere/x\.bin is missing$"):
        adopt(job)


def test_a_missing_ledger_is_refused_before_the_corpus_is_read(tmp_path):
    with pytest.raises(ValueError) as caught:
        verify(VerifyJob(data=DataDirConfig(dir=str(tmp_path / "no corpus")), ledger=str(tmp_path / "ledger.json")))
    assert str(caught.value).startswith(f"{tmp_path}/ledger.json: no such ledger")
