"""Rewrites the overrides of a command line for Hydra's parser, according to the types of the job's keys.

Invariants: a text key gets the text exactly as typed (in a list or a sweep: the text between commas), unless it is in
quotes, which Hydra removes; `${...}` interpolates and `\\${` does not. An override that cannot be read is a one-line
error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse as parse_interpolations

from nemotron4_config.keys import is_enum, kinds_along, without_none
from nemotron4_config.renamed import check_names

_OVERRIDE = re.compile(r"(\+\+|\+|~)?([^=]*)(?:=(.*))?", re.DOTALL)
_KEY = re.compile(r"[\w$/@:-]+(\.[\w$/@:-]+)*", re.ASCII)
_QUOTED = re.compile(r"""(["'])(?:\\.|(?!\1)[^\\])*\1(?=\s*(?:,|$))""", re.DOTALL)
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
_RULES = {str: "must be text", int: "must be a whole number", float: "must be a number", bool: "must be true or false"}


_MAX_SHOWN = 200
"""Most characters of a value that an error shows."""


def typed_overrides(
    overrides: Sequence[str], job_type: type, groups: Mapping[str, Sequence[str]], is_sweep: bool
) -> list[str]:
    """Each override in the form that Hydra should parse; `groups`: the options of each config group.

    Raises ValueError if Hydra cannot parse one, if its value does not suit its key, or if its key has been renamed.
    """
    check_names(overrides, job_type)
    chosen = {text.lstrip("+").partition("=")[0] for text in overrides if "={" not in text}
    return [_typed_override(text, job_type, groups, chosen, is_sweep) for text in overrides]


def _typed_override(
    text: str, job_type: type, groups: Mapping[str, Sequence[str]], chosen: Set[str], is_sweep: bool
) -> str:
    match = _OVERRIDE.fullmatch(text)
    assert match
    prefix, key, raw = match.groups()
    if not key or (raw is None and prefix != "~"):
        raise ValueError(f"{text!r}: neither KEY=VALUE nor an option; --help lists the keys")
    raw, parts = raw or "", key.split(".")
    _check_references(key, raw)
    if key in groups and prefix != "~" and not raw.lstrip().startswith("{"):
        return _group_choice(text, key, raw, groups[key], is_sweep)
    if parts[0] not in get_type_hints(job_type) or (prefix == "~" and len(parts) == 1):
        return _readable(text, key, raw, None, is_sweep)
    kinds = kinds_along(job_type, parts, "")
    if prefix == "~":
        if get_origin(kinds[-2]) is not dict:
            raise ValueError(f"{text}: {key} cannot be removed; give it another value")
        return _readable(text, key, raw, None, is_sweep)
    if _is_optional_part(kinds[1]) and parts[0] not in chosen:
        rule = f"{parts[0]} is null until an option is chosen; add {parts[0]}=OPTION ({', '.join(groups[parts[0]])})"
        raise _refusal(key, raw, rule)
    values = [raw] if not is_sweep else [] if _SWEEP.fullmatch(raw) else _split(raw)
    typed = _joined([_typed(kinds[-1], each, key, len(values) > 1) for each in values], values, raw)
    if len(values) != 1:  # a sweep
        is_new = prefix or get_origin(kinds[-2]) is dict
        return _readable(f"{'++' if is_new else ''}{key}={typed}", key, raw, kinds[-1], is_sweep)
    value = _read(_readable(f"x={typed}", key, raw, kinds[-1], is_sweep)).value()
    _check_shape(kinds[-1], value, key, raw)
    whole = _spelled_out(prefix, parts, kinds, typed, isinstance(value, dict))
    return _readable(whole, key, raw, None, is_sweep)


def _group_choice(text: str, group: str, raw: str, options: Sequence[str], is_sweep: bool) -> str:
    value = _read(_readable(text, group, raw, None, is_sweep)).value()
    if not all(isinstance(each, str | Sweep) for each in (value if isinstance(value, list) else [value])):
        raise _refusal(group, raw, f"must be one of: {', '.join(options)}")
    return text


def _read(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _readable(override: str, key: str, raw: str, kind: Any, is_sweep: bool) -> str:
    """The override; raises ValueError if Hydra cannot parse it, or parses it as a sweep without -m."""
    try:
        several = _read(override).is_sweep_override() and not is_sweep
    except HydraException as error:
        if kind is None and not _KEY.fullmatch(key):
            raise ValueError(f"{key}: unknown key; --help lists the keys") from error
        raise _refusal(key, raw, _rule(kind, key, "VALUE")) from error
    if several:
        raise _refusal(key, raw, "takes one value; add -m to run a job for each")
    return override


def _refusal(key: str, raw: str, rule: str) -> ValueError:
    shown = raw if len(raw) <= _MAX_SHOWN else f"{raw[:_MAX_SHOWN]}..."
    return ValueError(f"{key} ({shown or repr(shown)}): {rule}")


def _rule(kind: Any, key: str, value: str) -> str:
    """The rule that values of a type must follow; `value`: shown as the list's item, if it must be a list."""
    kind = without_none(kind)
    if kind is None:
        return f"cannot be read; put text in its own quotes, as in '{key}=\"TEXT\"'"
    if is_enum(kind):
        return f"must be one of: {', '.join(kind.__members__)}"
    if get_origin(kind) is list:
        return f"must be a list; write {key}=[{value}]"
    return _RULES.get(kind, f"must contain keys of its own; write {key}={{KEY: VALUE}}")


def _check_references(key: str, raw: str) -> None:
    try:
        if "${" in raw:
            parse_interpolations(raw)
    except GrammarParseError as error:
        rule = "`${` begins a reference to another key, as in ${run.name}; write \\${ for a literal ${"
        raise _refusal(key, raw, rule) from error


def _is_optional_part(kind: Any) -> bool:
    """Whether it is either null or has keys of its own."""
    return without_none(kind) is not kind and is_dataclass(without_none(kind))


def _split(text: str, name: str = "") -> list[str]:
    """The parts of a list, a mapping or a sweep; commas in quotes, in brackets or after a backslash don't separate.

    Quotes count only where a value begins: at the start of a part, or after its `name` (a regular expression).
    """
    parts, begin, depth, at = [], 0, 0, 0
    is_start = re.compile(rf"\s*(?:{name})?\s*", re.DOTALL)
    while at < len(text):
        starts = text[at] in "'\"" and is_start.fullmatch(text, begin, at)
        if starts and (quoted := _QUOTED.match(text, at)):
            at = quoted.end()
            continue
        if text[at] in "([{":
            depth += 1
        elif text[at] in ")]}":
            depth = max(0, depth - 1)
        elif text[at] == "," and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
        at += 2 if text[at] == "\\" else 1
    return [*parts, text[begin:].strip()] if parts else [text]


def _joined(typed: list[str], parts: list[str], raw: str) -> str:
    """The parts of a list, a mapping or a sweep, joined; the text as typed if no part had to change."""
    return raw if typed == parts else ",".join(typed)


def _typed(kind: Any, raw: str, key: str, is_part: bool) -> str:
    """A value in the form that Hydra should parse; `is_part`: whether it is in a list, a mapping or a sweep."""
    if without_none(kind) is not kind and raw.strip().lower() == "null":
        return raw
    kind, inner = without_none(kind), raw.strip()[1:-1]
    if kind is str:
        return _typed_text(raw, key, is_part)
    if get_origin(kind) is list and _is_enclosed(raw, "[]") and inner.strip():
        parts = _split(inner)
        return f"[{_joined([_typed(get_args(kind)[0], part, key, True) for part in parts], parts, inner)}]"
    if (is_dataclass(kind) or get_origin(kind) is dict) and _is_enclosed(raw, "{}") and inner.strip():
        parts = _split(inner, name="[^:]*:")
        return f"{{{_joined([_typed_entry(kind, part, key) for part in parts], parts, inner)}}}"
    return raw


def _is_enclosed(raw: str, brackets: str) -> bool:
    return raw.strip().startswith(brackets[0]) and raw.strip().endswith(brackets[1])


def _typed_entry(kind: Any, entry: str, key: str) -> str:
    name, colon, value = entry.partition(":")
    if not colon:
        return entry
    typed = _typed(kinds_along(kind, [name.strip()], key)[-1], value.strip(), f"{key}.{name.strip()}", True)
    return entry if typed == value.strip() else f"{name}: {typed}"


def _typed_text(raw: str, key: str, is_part: bool) -> str:
    try:
        read = _read(f"x={raw}").value()
    except HydraException:
        read = None
    if isinstance(read, str):
        in_quotes = _QUOTED.fullmatch(raw.strip()) is not None
        if read == raw or in_quotes or (is_part and "\\" in raw):  # a part may contain escaped commas
            return raw
    return QuotedString(text=raw, quote=Quote.single).with_quotes()


def _check_shape(kind: Any, value: Any, key: str, raw: str) -> None:
    """Raise ValueError for a null, list or mapping of the wrong kind; OmegaConf checks numbers and choices."""
    if value is None:
        if without_none(kind) is kind:
            raise ValueError(f"{key} (null): must have a value")
        return
    kind = without_none(kind)
    is_single = kind in _RULES or is_enum(kind)
    if isinstance(value, str) and "${" in value and not is_single:
        return
    fits = list if get_origin(kind) is list else dict
    if isinstance(value, dict | list) if is_single else not isinstance(value, fits):
        raise _refusal(key, raw, _rule(kind, key, raw if raw and not isinstance(value, dict) else "VALUE"))
    if isinstance(value, list):
        for number, each in enumerate(value):
            _check_shape(get_args(kind)[0], each, f"{key}[{number}]", raw)
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise _refusal(key, raw, "a name must be text, neither a number nor null; set it in a file of conf/")
            _check_shape(kinds_along(kind, [str(name)], key)[-1], each, f"{key}.{name}", raw)


def _spelled_out(prefix: str | None, parts: Sequence[str], kinds: Sequence[Any], value: str, is_dict: bool) -> str:
    """An override that may add a key. Hydra cannot add a key that contains others, but can merge a mapping into one.

    So mappings are used for `+`, for a whole entry of a mapping by name, and below a key that may be null.
    """
    tables = [number for number, kind in enumerate(kinds[:-1]) if get_origin(kind) is dict]
    optional = [number - 1 for number, kind in enumerate(kinds) if number > 1 and _is_optional_part(kind)]
    is_new = (
        bool(prefix) or bool(optional) or (get_origin(kinds[-2]) is dict and (is_dict or not is_dataclass(kinds[-1])))
    )
    if is_new and (tables or optional):
        begin = min(*tables, *optional, len(parts))
        for name in reversed(parts[begin:]):
            value = f"{{{name}: {value}}}"
        return f"++{'.'.join(parts[:begin])}={value}"
    return f"{'++' if prefix or is_dict else ''}{'.'.join(parts)}={value}"
