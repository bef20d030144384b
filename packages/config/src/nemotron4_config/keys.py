"""The keys of a job's dataclass: dotted name, type, default, and the docstring below the field.

Invariant: everything is read from the dataclass and its source; a key is documented nowhere else.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_NOUNS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
_LONG_NUMBER = 10_000
_SENTENCE_END = re.compile(r"(?<=[.?]) (?=[A-Z])")


@dataclass(frozen=True)
class Key:
    """One key of a job."""

    name: str
    """Dotted; NAME stands for a name that the user chooses."""
    type: str
    """Type of its values, in words."""
    default: str | None
    """As it is typed; empty if it only contains other keys, None if a value is required."""
    text: str
    """Its docstring, as one paragraph."""

    @property
    def type_and_duty(self) -> str:
        """The type, and whether a value is required."""
        return f"{self.type}, required" if self.is_required else self.type

    @property
    def is_required(self) -> bool:
        """Whether a value must be given; never of a key that contains other keys."""
        return self.default is None and not self.type.startswith("keys")

    @property
    def sentence(self) -> str:
        """The first sentence of its docstring."""
        return first_sentence(self.text)


def first_sentence(text: str) -> str:
    """The text up to the end of its first sentence."""
    return _SENTENCE_END.split(text, 1)[0]


def job_keys(job_type: Any) -> list[Key]:
    """Every key of a job in the order of its fields; a key that contains others precedes them."""
    return keys_below(job_type, "", {without_none(hint): name for name, hint in get_type_hints(job_type).items()})


def keys_below(kind: Any, name: str, parts: Mapping[Any, str]) -> list[Key]:
    """The keys of a dataclass, or of a mapping to one, whose own dotted key is `name`.

    `parts`: names of the job's top-level parts by type; a part that occurs again further below is only referred to.
    """
    kind = without_none(kind)
    if get_origin(kind) is dict:
        return keys_below(get_args(kind)[-1], f"{name}.NAME", parts)
    if not is_dataclass(kind):
        return []
    hints, texts = get_type_hints(kind), docstrings(kind)
    keys = []
    for field in fields(kind):
        hint, key_name = hints[field.name], f"{name}.{field.name}".lstrip(".")
        part = parts.get(without_none(hint)) if name and is_dataclass(without_none(hint)) else None
        words = type_in_words(hint) if part is None else type_in_words(hint).replace("keys", f"keys of {part}")
        keys.append(Key(key_name, words, _default(field), texts.get(field.name, "")))
        keys += keys_below(hint, key_name, parts) if part is None else []
    return keys


def docstrings(kind: Any) -> dict[str, str]:
    """The docstring of each field of a dataclass, also of those that it inherits, as one paragraph."""
    classes = [each for each in reversed(inspect.getmro(kind)) if is_dataclass(each)]
    bodies = [_class_bodies(inspect.getfile(each))[each.__qualname__] for each in classes]
    return {
        field.target.id: " ".join(inspect.cleandoc(text.value.value).split())
        for body in bodies
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


@cache
def _class_bodies(path: str) -> dict[str, list[ast.stmt]]:
    """The statements of each top-level class of a module."""
    module = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {each.name: each.body for each in module.body if isinstance(each, ast.ClassDef)}


def type_in_words(hint: Any) -> str:
    """A type in a user's words."""
    kind = without_none(hint)
    words = list(kind.__members__) if is_enum(kind) else [_noun(kind)]
    words += ["null"] if kind is not hint else []
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _noun(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return f"list of {_plural(arguments[0])}"
    if origin is dict:
        return "keys by name" if is_dataclass(arguments[1]) else f"mapping of names to {_plural(arguments[1])}"
    return "keys" if is_dataclass(kind) else _NOUNS[kind]


def _plural(hint: Any) -> str:
    kind = without_none(hint)
    if get_origin(kind) is dict:
        return "mappings"
    if get_origin(kind) is list:
        return f"lists of {_plural(get_args(kind)[0])}"
    return type_in_words(hint) if kind is not int and kind is not float else f"{_NOUNS[kind]}s"


def _default(field: Any) -> str | None:
    if is_dataclass(field.default_factory):
        return ""
    if field.default_factory is not MISSING:
        return as_typed(field.default_factory())
    return None if field.default is MISSING else as_typed(field.default)


def as_typed(value: Any) -> str:
    """A value as it is typed on a command line or in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= _LONG_NUMBER else str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(as_typed, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {as_typed(each)}" for name, each in value.items()) + "}"
    return str(value) or "''"


def kinds_along(whole: Any, parts: Sequence[str], root: str) -> list[Any]:
    """The types along a dotted key: of the key `root`, of its key parts[0], of parts[1] inside that, and so on.

    Raises ValueError if a key does not exist.
    """
    kinds: list[Any] = [whole]
    for number, name in enumerate(parts):
        kind = without_none(kinds[-1])
        if is_dataclass(kind):
            hints = get_type_hints(kind)
            if name not in hints:
                where = ".".join((*([root] if root else []), *parts[:number]))
                key = f"{where}.{name}".lstrip(".")
                raise ValueError(f"{key}: unknown key; {where or 'the job'} has: {', '.join(hints)}")
            kinds.append(hints[name])
        elif get_origin(kind) is dict:
            kinds.append(get_args(kind)[-1])
        else:
            raise ValueError(f"{'.'.join(parts)}: unknown key; {'.'.join(parts[:number])} has no keys")
    return kinds


def without_none(kind: Any) -> Any:
    """The type, without None."""
    given = [each for each in get_args(kind) if each is not NoneType] if get_origin(kind) in (Union, UnionType) else []
    return given[0] if given else kind


def is_enum(kind: Any) -> bool:
    """Whether a type is a choice of named values."""
    return isinstance(kind, type) and issubclass(kind, Enum)
