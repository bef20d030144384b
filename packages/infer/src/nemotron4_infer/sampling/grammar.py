"""Text that must match a JSON schema: which tokens may come next.

Invariant: the end-of-sequence token is allowed only where the text is complete, so a text that ends by itself parses
and matches. White space between the parts of JSON is bounded: a text cannot go on with it for ever.
Source: llguidance, which compiles a schema to a parser of bytes and walks the bytes of all tokens along it.
"""

import json
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nemotron4_common.extras import check_installed
from nemotron4_common.rules import require
from nemotron4_data import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA_CHARACTERS, MAX_REGEXES = 16_384, 12
JSON_OBJECT_SCHEMA = '{"type": "object"}'
"""Matches any JSON object: `response_format` json_object."""

# What a schema says about these is overridden, so that no key is ignored and white space stays bounded.
_OPTIONS: Any = {"whitespace_pattern": "\\n? {0,16}", "lenient": False, "coerce_one_of": False}
_KEPT_SCHEMAS, _SHOWN_CHARACTERS = 16, 40


class Grammar:
    """A text of one sequence as far as it has come."""

    def __init__(self, matcher: "LLMatcher", vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> NDArray[np.bool_]:
        """By token id, [V]: whether it may come next. ValueError, one line, if llguidance gives up."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def consume(self, token: int) -> None:
        """Add a token, which must be an allowed one."""
        self._matcher.consume_token(token)

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        return bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"json_schema: {_one_line(self._matcher.get_error())}; simplify it")


class JsonSchemas:
    """Compiles schemas for a tokenizer; the last few stay compiled. All methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._compiled = lru_cache(maxsize=_KEPT_SCHEMAS)(self._compile)

    def check(self, json_schema: str) -> None:
        """Raise ValueError, one line, unless `json_schema` is a JSON schema that can be followed."""
        self._compiled(json_schema)

    def grammar(self, json_schema: str) -> Grammar:
        """The beginning of a text that must match. ValueError as `check`."""
        return Grammar(self._compiled(json_schema).deep_copy(), self._tokenizer.vocab_size)

    def _compile(self, json_schema: str) -> "LLMatcher":
        check_installed("json_schema: needs llguidance", ["llguidance"], "nemotron4-infer[schema]")
        from llguidance import LLMatcher, LLParserLimits

        _check_json(json_schema)
        shown = repr(json_schema[:_SHOWN_CHARACTERS])
        try:
            # The text as it is, which is known to be JSON: llguidance pastes it into JSON of its own.
            grammar = LLMatcher.grammar_from_json_schema(json_schema, overrides=_OPTIONS)
        except ValueError as error:
            raise ValueError(f"json_schema ({shown}): {_one_line(str(error))}") from error
        matcher = LLMatcher(self._byte_tokens, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
        first = matcher.deep_copy()
        first.compute_bitmask()
        require(not first.is_error(), "json_schema", shown, _one_line(first.get_error()))
        return matcher

    @cached_property
    def _byte_tokens(self) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_ByteTable(self._tokenizer)), slices=LLTokenizer.json_slices())


class _ByteTable:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, None
        self.tokens = [tokenizer.decode_bytes([token]) for token in ids]
        self.special_token_ids = [token for token in ids if tokenizer.is_control(token) or token == tokenizer.unk_id]
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _check_json(json_schema: str) -> None:
    size, rule = len(json_schema), f"must have at most {MAX_SCHEMA_CHARACTERS} characters"
    require(size <= MAX_SCHEMA_CHARACTERS, "json_schema", f"{size} characters", rule)
    shown = repr(json_schema[:_SHOWN_CHARACTERS])
    try:
        schema = json.loads(json_schema, parse_constant=_refuse)
        count, rule = len(set(_regexes(schema))), f"must have at most {MAX_REGEXES} different ones"
    except (ValueError, RecursionError) as error:
        raise ValueError(f"json_schema ({shown}): not JSON: {_one_line(str(error))}") from error
    require(isinstance(schema, dict), "json_schema", shown, "must be a JSON object")
    # Whether several regular expressions have a text in common can take llguidance exponentially long.
    require(count <= MAX_REGEXES, "json_schema", f"{count} patterns and formats", rule)


def _regexes(part: Any) -> Iterator[str]:
    """The regular expressions within a schema, and the formats, which are such."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("pattern", "format") and isinstance(value, str):
                yield value
            if key == "patternProperties" and isinstance(value, dict):
                yield from value
            yield from _regexes(value)
    if isinstance(part, list):
        for value in part:
            yield from _regexes(value)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _one_line(message: str) -> str:
    return " ".join(message.replace("<non-verbose/>", "").split())
