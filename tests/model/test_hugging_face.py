"""transformers is the judge: same logits, gradients and continuations, from the same directory."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nemotron4_model import ModelConfig, Transformer, initialise, load_pretrained, save_pretrained, write_pretrained
from nemotron4_model.hugging_face.config_json import from_json, to_json
from nemotron4_model.hugging_face.names import to_hugging_face

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    init_std=0.1,
    max_sequence_length=32,
)


def make(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config)
    initialise(model, seed, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(0, 0.1, generator=generator)
    return model


def judge(model: Transformer, attention: str = "sdpa") -> Any:
    transformers = pytest.importorskip("transformers")
    settings_ = to_json(model.config, torch.float32)
    settings_.pop("torch_dtype")
    settings_["pad_token_id"] = None  # else transformers' embedding has no gradient for word 0
    other = transformers.NemotronForCausalLM(transformers.NemotronConfig(**settings_, attn_implementation=attention))
    stored = (pair for name, p in model.named_parameters() for pair in to_hugging_face(name, p.detach(), model.config))
    other.load_state_dict(dict(stored))
    return other.eval()


@st.composite
def shapes(draw: Any) -> ModelConfig:
    kv_heads, group = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 4]))
    head_dim = draw(st.sampled_from([4, 8, 16]))
    heads = kv_heads * group
    natural = draw(st.booleans())
    return ModelConfig(
        vocab_size=draw(st.integers(5, 70)),
        hidden_size=heads * head_dim if natural else draw(st.sampled_from([12, 20])),
        intermediate_size=draw(st.integers(3, 40)),
        num_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=None if natural else head_dim,
        rotary_fraction=draw(st.sampled_from([0.5, 0.75, 1.0] if head_dim > 4 else [0.5, 1.0])),
        rope_theta=draw(st.sampled_from([100.0, 10_000.0])),
        init_std=0.1,
        max_sequence_length=32,
    )


@settings(max_examples=24, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(config=shapes(), attention=st.sampled_from(["sdpa", "eager"]), seed=st.integers(0, 99))
def test_logits_and_gradients_equal_transformers(config: ModelConfig, attention: str, seed: int) -> None:
    model = make(config, seed)
    other = judge(model, attention)
    tokens = torch.randint(config.vocab_size, (2, 11), generator=torch.Generator().manual_seed(seed))
    theirs = other(tokens[:, :-1]).logits
    torch.testing.assert_close(model(tokens[:, :-1]), theirs, atol=1e-4, rtol=1e-4)
    torch.nn.functional.cross_entropy(theirs.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    model(tokens[:, :-1], tokens[:, 1:]).mean.backward()
    grads = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        for stored_name, grad in to_hugging_face(name, parameter.grad, config):
            torch.testing.assert_close(grad, grads[stored_name].grad, atol=1e-5, rtol=1e-4, msg=stored_name)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(config=shapes(), seed=st.integers(0, 99), lengths=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_padded_batches_and_long_continuations_equal_transformers(
    config: ModelConfig, seed: int, lengths: tuple[int, int]
) -> None:
    config = ModelConfig(**{**vars(config), "max_sequence_length": 96})
    model = make(config, seed)
    other = judge(model)
    rows = [torch.randint(config.vocab_size, (n,), generator=torch.Generator().manual_seed(seed + n)) for n in lengths]
    padded_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    real_BT = torch.arange(padded_BT.shape[1]) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        theirs_BTV = other(padded_BT, attention_mask=real_BT.long()).logits
        torch.testing.assert_close(model(padded_BT)[real_BT], theirs_BTV[real_BT], atol=1e-4, rtol=0)
        sequence_1T = rows[0][None]
        for _ in range(64):
            sequence_1T = torch.cat([sequence_1T, model(sequence_1T)[:, -1].argmax(-1, keepdim=True)], 1)
    greedy = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False, "eos_token_id": None}
    prompt_1T = rows[0][None]
    theirs_1T = other.generate(prompt_1T, attention_mask=torch.ones_like(prompt_1T), **greedy)
    assert theirs_1T.tolist() == sequence_1T.tolist()


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(file=st.sampled_from(["config.json", "model.safetensors"]), data=st.data())
def test_damaged_directories_load_or_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, file: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m"
    save_pretrained(make(CONFIG), path)
    content = bytearray((path / file).read_bytes())
    if data.draw(st.booleans(), "truncate"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        at = data.draw(st.integers(0, min(len(content), 2_000) - 1))
        content[at] = data.draw(st.integers(0, 255))
    (path / file).write_bytes(content)
    refusal = ""
    try:
        load_pretrained(path)
    except ValueError as error:
        refusal = str(error)
    assert "\n" not in refusal


@pytest.mark.parametrize("max_shard_bytes", [10_000_000, 8_000])
def test_export_is_read_by_transformers_and_by_us(tmp_path: Path, max_shard_bytes: int) -> None:
    transformers = pytest.importorskip("transformers")
    model = make(CONFIG)
    target = tmp_path / "export"
    save_pretrained(model, target, dtype=torch.float32, max_shard_bytes=max_shard_bytes, extra_files={"note.txt": "x"})
    assert (target / "model.safetensors.index.json").exists() == (max_shard_bytes == 8_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]  # nothing staged is left
    other = transformers.AutoModelForCausalLM.from_pretrained(target, local_files_only=True, dtype=torch.float32)
    prompt = torch.tensor([[2, 17, 40, 9]])
    torch.testing.assert_close(model(prompt), other(prompt).logits, atol=1e-5, rtol=1e-5)
    longer = prompt
    for _ in range(8):
        longer = torch.cat([longer, model(longer)[:, -1].argmax(-1, keepdim=True)], 1)
    theirs = other.generate(prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False, eos_token_id=None)
    assert theirs.tolist() == longer.tolist()
    other.save_pretrained(tmp_path / "theirs")
    for directory in (target, tmp_path / "theirs"):
        back = load_pretrained(directory)
        assert back.config == ModelConfig(**{**vars(CONFIG), "head_dim": 8})
        for name, parameter in model.named_parameters():
            assert torch.equal(dict(back.named_parameters())[name], parameter), name


def test_a_model_is_saved_in_its_own_dtype_unless_told(tmp_path: Path) -> None:
    model = make(CONFIG)
    for dtype in (torch.float32, torch.bfloat16):
        saved = tmp_path / str(dtype)
        save_pretrained(model.to(dtype), saved)
        assert json.loads((saved / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
        for stored in load_file(saved / "model.safetensors").values():
            assert stored.dtype == dtype
        assert torch.equal(load_pretrained(saved, dtype=dtype).head.weight, model.head.weight)


def test_low_precision_export_and_load(tmp_path: Path) -> None:
    model = make(CONFIG)
    save_pretrained(model, tmp_path / "m", dtype=torch.bfloat16)
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == "bfloat16"
    back = load_pretrained(tmp_path / "m", dtype=torch.bfloat16)
    assert torch.equal(back.head.weight, model.head.weight.bfloat16())
    assert back.rotary.cos.dtype == torch.float32


OLDER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rope_parameters": None}, {}),
    ({"rope_parameters": None, "partial_rotary_factor": None, "rope_percent": 1.0}, {"rotary_fraction": 1.0}),
    ({"rope_parameters": None, "partial_rotary_factor": None, "rope_percentage": 0.5}, {}),
    ({"head_dim": None, "kv_channels": 16}, {"head_dim": 16}),
    ({"norm_eps": None, "layer_norm_eps": 1e-6}, {"norm_eps": 1e-6}),
    ({"num_key_value_heads": None}, {"num_key_value_heads": 4}),
    ({"rope_parameters": None, "rope_theta": 500}, {"rope_theta": 500.0}),
]


@pytest.mark.parametrize(("change", "expected"), OLDER)
def test_older_keys_are_understood(change: dict[str, Any], expected: dict[str, Any]) -> None:
    content = {**to_json(CONFIG, torch.float32), **change}
    assert from_json(content, "config.json") == ModelConfig(**{**vars(CONFIG), "head_dim": 8, **expected})


def damage_config(directory: Path, **change: Any) -> None:
    path = directory / "config.json"
    content = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def damage_tensors(directory: Path, **change: Any) -> None:
    path = directory / "model.safetensors"
    tensors = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in change.items()}}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not ...}, path)


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def only_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


FAULTS: list[tuple[Any, str]] = [
    (lambda d: damage_config(d, model_type="llama"), "config.json: model_type ('llama'): must be 'nemotron'"),
    (lambda d: damage_config(d, mlp_bias=True), "config.json: mlp_bias (True): must be False"),
    (lambda d: damage_config(d, vocab_size=...), "config.json: key 'vocab_size' is missing"),
    (lambda d: damage_config(d, rope_parameters={"rope_type": "yarn"}), "rope_type ('yarn'): must be 'default'"),
    (lambda d: damage_config(d, hidden_size="32"), "config.json: hidden_size ('32'): must be int"),
    (lambda d: damage_config(d, norm_eps="x"), "config.json: norm_eps ('x'): must be int or float"),
    (lambda d: damage_config(d, norm_eps=float("nan")), "config.json: norm_eps (nan): must be a finite number"),
    (lambda d: damage_config(d, rope_parameters=[]), "config.json: rope_parameters ([]): must be dict"),
    (lambda d: (d / "config.json").unlink(), "config.json: the file is missing"),
    (lambda d: (d / "config.json").write_text("{"), "config.json: not valid JSON"),
    (
        lambda d: damage_tensors(d, model__norm__bias=...),
        "tensor 'model.norm.bias' is missing; config.json implies one of shape [32]",
    ),
    (lambda d: damage_tensors(d, extra=torch.zeros(1)), "tensor 'extra' is not part of this model (1 such tensors)"),
    (
        lambda d: damage_tensors(d, lm_head__weight=torch.zeros(63, 32)),
        "tensor 'lm_head.weight' has shape [63, 32]; config.json implies [64, 32]",
    ),
    (
        lambda d: damage_tensors(d, model__norm__bias=torch.zeros(32, dtype=torch.int8)),
        "tensor 'model.norm.bias' is stored as I8; expected one of F64, F32, F16, BF16; weights quantised by other",
    ),
    (
        lambda d: damage_config(d, intermediate_size=10**15),
        "has shape [48, 32]; config.json implies [1000000000000000, 32]",
    ),
    (truncate, "model.safetensors: damaged or not a safetensors file"),
    (only_pickle, "pytorch_model.bin is a pickle, which can run code and is never opened"),
    (lambda d: (d / "model.safetensors").unlink(), "this is not a model directory"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_faulty_directories_are_refused_in_one_line(tmp_path: Path, fault: Any, message: str) -> None:
    save_pretrained(make(CONFIG), tmp_path / "m")
    fault(tmp_path / "m")
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        load_pretrained(tmp_path / "m")
    assert "\n" not in str(refusal.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_pretrained(make(CONFIG), tmp_path / "m", max_shard_bytes=4_000)
    shard = sorted((tmp_path / "m").glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name}: the file is missing; model.safetensors.index.json names it"):
        load_pretrained(tmp_path / "m")


def test_a_tensor_that_the_index_leaves_out_is_named(tmp_path: Path) -> None:
    save_pretrained(make(CONFIG), tmp_path / "m", max_shard_bytes=4_000)
    shard = sorted((tmp_path / "m").glob("model-*.safetensors"))[1]
    save_file({**load_file(shard), "more": torch.zeros(1)}, shard)
    with pytest.raises(ValueError, match="tensor 'more' is not part of this model"):
        load_pretrained(tmp_path / "m")


def test_writing_refuses_wrong_input_and_leaves_nothing(tmp_path: Path) -> None:
    pairs = [(name, p.detach()) for name, p in make(CONFIG).named_parameters()]
    target = tmp_path / "m"
    for wrong, message in (
        (pairs[1:], "parameter 'embedding.weight' is missing (1 in all)"),
        ([*pairs, ("more", torch.zeros(1))], "parameter 'more' is not part of this model, or was given twice"),
        ([("norm.bias", torch.zeros(3))], "parameter 'norm.bias' has shape [3]; expected [32]"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            write_pretrained(CONFIG, iter(wrong), target, dtype=torch.float32)
        assert not list(tmp_path.iterdir())
    write_pretrained(CONFIG, iter(pairs), target, dtype=torch.float32)
    with pytest.raises(ValueError, match="m: exists and is not empty; remove it or export to another directory"):
        write_pretrained(CONFIG, iter(pairs), target, dtype=torch.float32)


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    pytest.importorskip("sentencepiece")
    from tiny_tokenizer import train_tiny_tokenizer

    return train_tiny_tokenizer()


TEXTS = [
    "",
    " ",
    "       x",
    "\n\n\t a",
    "there theme 2026",
    "été e\u0301 日本語 мир 🙂 \u0000",
    "<extra_id_1>User\nthe <extra_id_0>",
    "a</s> <s> <unk> <pad> <0x41>",
    "\u2581 literal",
]


def test_exported_tokenizer_agrees_with_sentencepiece(tmp_path: Path, sentencepiece_model: bytes) -> None:
    transformers = pytest.importorskip("transformers")
    import sentencepiece

    (tmp_path / "t.model").write_bytes(sentencepiece_model)
    config = ModelConfig(**{**vars(CONFIG), "vocab_size": 1_024})
    save_pretrained(make(config), tmp_path / "m", tokenizer_model=tmp_path / "t.model")
    assert (tmp_path / "m/tokenizer.model").read_bytes() == sentencepiece_model
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m", local_files_only=True)
    # To our encoder turn markers are control pieces (type 3), which no text spells, and not user-defined ones (4).
    markers = rb"(<extra_id_[01]>\x15....\x18)\x04"
    as_control, num_markers = re.subn(markers, b"\\g<1>\x03", sentencepiece_model, flags=re.DOTALL)
    assert num_markers == 2
    ours = sentencepiece.SentencePieceProcessor(model_proto=as_control)
    draw = random.Random(1)
    alphabet = "  \n\tabcdeinorstéд本🙂0123456789.,<>/"
    texts = TEXTS + ["".join(draw.choices(alphabet, k=draw.randint(1, 80))) for _ in range(2_000)]
    texts += [" " * n + "the" + " " * (n // 2) for n in range(40)]
    for text in texts:
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids, repr(text)
        assert theirs.decode(ids) == ours.decode(ids), repr(text)
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 2, 3)
    assert theirs("the")["input_ids"] == ours.encode("the")
    marker = theirs.convert_tokens_to_ids("<extra_id_1>")
    assert marker == ours.piece_to_id("<extra_id_1>") not in theirs.encode("<extra_id_1>User")
    assert theirs.encode("<extra_id_1>User", split_special_tokens=False)[0] == marker


def test_a_tokenizer_with_more_pieces_than_the_model_is_refused(tmp_path: Path, sentencepiece_model: bytes) -> None:
    (tmp_path / "t.model").write_bytes(sentencepiece_model)
    message = (
        f"model.vocab_size (64): must be at least the 900 pieces of {tmp_path / 't.model'}; "
        "the model was trained with another tokenizer"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        save_pretrained(make(CONFIG), tmp_path / "m", tokenizer_model=tmp_path / "t.model")
    assert not (tmp_path / "m").exists()


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.model").write_bytes(b"\x00\x01 not one")
    with pytest.raises(ValueError, match=r"t\.model: not a SentencePiece model"):
        save_pretrained(make(CONFIG), tmp_path / "m", tokenizer_model=tmp_path / "t.model")
    assert not (tmp_path / "m").exists()
