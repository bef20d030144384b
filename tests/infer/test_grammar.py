"""JSON schemas: whatever a model with random weights ends by itself parses and matches."""

import json
import re

import numpy as np
import pytest
import torch

from nemotron4_data import Tokenizer
from nemotron4_infer import SamplingConfig, load_model_directory
from nemotron4_infer.sampling.choose import ChoiceError, SamplerState, choose
from nemotron4_infer.sampling.grammar import JSON_OBJECT_SCHEMA, JsonSchemas

pytest.importorskip("llguidance")

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 3},
            "size": {"type": "integer", "minimum": -5, "maximum": 40},
            "kind": {"enum": ["fox", "dög", None]},
        },
        "required": ["size", "kind"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load_model_directory(str(model_dir), None)


@pytest.fixture(scope="module")
def schemas(loaded):
    return JsonSchemas(loaded.tokenizer)


def matches(text):
    found = json.loads(text)
    assert set(found) - {"name"} == {"size", "kind"}
    assert len(found.get("name", "")) <= 3
    assert found["kind"] in ("fox", "dög", None)
    return type(found["size"]) is int and -5 <= found["size"] <= 40


@torch.inference_mode()
def generate(loaded, grammars, **settings_):
    """A text of each grammar, in one batch: ids up to the end-of-sequence token, or max_new_tokens of them.

    The model sees the last token alone, which is as good as any other random number.
    """
    eos_id, vocab_size = loaded.tokenizer.eos_id, loaded.tokenizer.vocab_size
    sampling = SamplingConfig(temperature=1.0, **settings_)
    states = [
        SamplerState(sampling=sampling, choice=choice, vocab_size=vocab_size, grammar=grammar)
        for choice, grammar in enumerate(grammars)
    ]
    running = states
    for _ in range(sampling.max_new_tokens):
        if not running:
            break
        last_B1 = torch.tensor([(state.generated_ids or [eos_id])[-1:] for state in running])
        choose(loaded.model(last_B1)[:, -1], running)
        running = [state for state in running if state.generated_ids[-1] != eos_id]
    return [state.generated_ids for state in states]


def test_what_ends_by_itself_matches_the_schema(loaded, schemas):
    tokenizer = loaded.tokenizer
    # White space is unlikely, so that most texts are short.
    blank = {token: -6.0 for token in range(tokenizer.vocab_size) if tokenizer.decode_bytes([token]).isspace()}
    grammars, num_complete = [schemas.grammar(SCHEMA) for _ in range(30)], 0
    texts = generate(loaded, grammars, max_new_tokens=60, logit_bias=blank)
    for grammar, ids in zip(grammars, texts, strict=True):
        assert grammar.is_complete is (ids[-1] == tokenizer.eos_id)
        num_complete += grammar.is_complete
        if grammar.is_complete:
            assert matches(tokenizer.decode_bytes(ids).decode())
        else:
            assert len(ids) == 60
    assert num_complete >= 15
    assert len(generate(loaded, [schemas.grammar(SCHEMA)], max_new_tokens=4)[0]) == 4


def test_each_choice_has_a_text_of_its_own(loaded, schemas):
    first, second = schemas.grammar('{"const": 12}'), schemas.grammar('{"const": 12}')
    (digit,) = loaded.tokenizer.encode("1")
    first.consume(digit)
    assert [loaded.tokenizer.decode_bytes([token]) for token in np.flatnonzero(first.allowed())] == [b"2"]
    assert second.allowed()[digit]
    first.consume(loaded.tokenizer.encode("2")[0])
    assert first.is_complete
    assert not second.is_complete
    # After the end nothing else may follow, also where generation goes on.
    for _ in range(3):
        assert np.flatnonzero(first.allowed()).tolist() == [loaded.tokenizer.eos_id]
        first.consume(loaded.tokenizer.eos_id)


def test_control_pieces_and_the_unknown_piece_are_no_text(loaded, schemas):
    grammar = schemas.grammar('{"type": "string"}')
    grammar.consume(loaded.tokenizer.encode('"')[0])
    allowed = grammar.allowed()
    assert allowed.shape == (loaded.tokenizer.vocab_size,)
    assert allowed[loaded.tokenizer.encode("fox")].all()
    assert not allowed[:4].any()


def test_any_json_object(schemas, loaded):
    grammar = schemas.grammar(JSON_OBJECT_SCHEMA)
    for token in loaded.tokenizer.encode('{"a": [1, {"b": null}]}'):
        assert grammar.allowed()[token]
        grammar.consume(token)
    assert grammar.is_complete


def test_white_space_ends(schemas, loaded):
    tokenizer, grammar = loaded.tokenizer, schemas.grammar(JSON_OBJECT_SCHEMA)
    space = next(token for token in range(tokenizer.vocab_size) if tokenizer.decode_bytes([token]) == b" ")
    grammar.consume(tokenizer.encode("{")[0])
    for _ in range(16):
        assert grammar.allowed()[space]
        grammar.consume(space)
    assert not grammar.allowed()[space]


def test_a_schema_that_needs_too_much_work_ends_its_sequence_alone(schemas, loaded):
    properties = {f"p{number}": {"type": "string"} for number in range(550)}
    grammar = schemas.grammar(json.dumps({"type": "object", "properties": properties}))
    grammar.consume(loaded.tokenizer.encode("{")[0])
    states = [SamplerState(sampling=SamplingConfig(), choice=0, vocab_size=330, grammar=g) for g in (grammar, None)]
    with pytest.raises(ChoiceError) as caught:
        choose(torch.zeros(2, 330), states)
    assert list(caught.value.reasons) == [0]
    assert re.match("json_schema: Parser Error: Current row has [^\n]*; simplify it$", caught.value.reasons[0])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("", "json_schema (''): not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"type"', "json_schema ('{\"type\"'): not JSON: Expecting ':' delimiter: line 1 column 8 (char 7)"),
        ('{"minimum": NaN}', "json_schema ('{\"minimum\": NaN}'): not JSON: NaN is no number"),
        ("[]", "json_schema ('[]'): must be a JSON object"),
        ("[" * 16_000, re.compile(r"json_schema \('\[{40}'\): not JSON: maximum recursion depth .*")),
        ('{"type": "foo"}', 'json_schema (\'{"type": "foo"}\'): Invalid type: foo'),
        (
            '{"x-guidance": {"lenient": true}, "uniqueItems": true, "type": "array"}',
            re.compile(".*: Unimplemented keys: .*"),
        ),
        ('{"pattern": "(", "type": "string"}', re.compile(r".*: regex parse error: \( \^ error: unclosed group")),
        (
            '{"$ref": "http://127.0.0.1/x"}',
            re.compile(".*Resource 'http://127.0.0.1/x' is not present in a registry.*"),
        ),
        ('{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}', re.compile(".*NoExtensionBias")),
        (json.dumps({"a": "\ud800"}), re.compile(".*: unexpected end of hex escape .*")),
        (f'{{"$comment": "{"x" * 16_400}"}}', "json_schema (16416 characters): must have at most 16384 characters"),
        (
            json.dumps({"allOf": [{"pattern": f"a.{{0,{size}}}b"} for size in range(30)]}),
            "json_schema (30 patterns and formats): must have at most 12 different ones",
        ),
    ],
)
def test_wrong_schemas_are_refused_in_one_line(schemas, schema, message):
    with pytest.raises(
        ValueError, match=message if isinstance(message, re.Pattern) else f"^{re.escape(message)}$"
    ) as error:
        schemas.check(schema)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("json_schema (")


def test_a_missing_library_is_named(monkeypatch, model_dir):
    monkeypatch.setattr("nemotron4_common.extras.find_spec", lambda module: None)
    message = "json_schema: needs llguidance; pip install 'nemotron4-infer[schema]'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        JsonSchemas(Tokenizer(model_dir / "tokenizer.model")).check(SCHEMA)
