"""Pages of a task's items beside its samples: the exact prompt, the answer, the gold answer, the verdict.

The samples are records of the LM Evaluation Harness (its `log_samples`), one a line: `doc_id`, `doc`, `target`,
`arguments`, `resps`, `filtered_resps`, `filter`, `metrics`, and a key for each metric. Several filters give several
records of an item.

Invariant: a page's size is bounded, and what is left out of it is said there; all is in the file of samples.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron4_eval.report.shell import escape, write_page
from nemotron4_eval.suites.results import TaskResult

ITEMS_PER_PAGE = 200
PAGE_CHARACTERS = 2_000_000
TEXT_CHARACTERS = 20_000
"""Longer texts are cut: prompts at their beginning, answers at their end."""
OPTIONS_SHOWN = 50
COMMON_CHARACTERS = 200
"""A beginning shared by all prompts of a page is shown once if it is at least this long."""

Record = Mapping[str, Any]


def write_records(directory: Path, name: str, task: TaskResult, model: str) -> str | None:
    """Write the pages of a task's items; returns the first, relative to `directory`, or None without samples."""
    samples = directory / task["samples"]
    if not task["samples"] or not samples.is_file():
        return None
    for old in samples.parent.glob(f"{samples.stem}*.html"):
        if old.stem == samples.stem or old.stem.removeprefix(f"{samples.stem}.").isdecimal():
            old.unlink()
    pages = list(_pages(list(_items(samples).values())))
    paths = [
        samples.with_name(f"{samples.stem}.{number}.html" if number > 1 else f"{samples.stem}.html")
        for number in range(1, len(pages) + 1)
    ]
    back = os.path.relpath(directory / "report.html", samples.parent)
    for index, (path, items) in enumerate(zip(paths, pages, strict=True)):
        links = "".join(
            f"<b>{number + 1}</b>" if number == index else f'<a href="{escape(other.name)}">{number + 1}</a>'
            for number, other in enumerate(paths)
        )
        pager = f"<nav class=pages aria-label=Pages>page {links}</nav>" if len(paths) > 1 else ""
        file = f'<a href="{escape(samples.name)}">{escape(samples.name)}</a>'
        head = (
            f'<header><p class=kind><a href="{escape(back)}">Evaluation of {escape(model)}</a></p>'
            f"<h1>{escape(name)}</h1><p class=lead>{task['items']:,} items, {task['shots']} shots; verdicts are those"
            f" of {escape(task['metric'])}. The records as the harness gave them: {file}.</p></header>"
        )
        write_page(path, f"{name}: items", [head, *_body(items, task["metric"], pager)])
    return os.path.relpath(paths[0], directory)


def _items(samples: Path) -> dict[Any, list[Record]]:
    """The records of each item, one for each filter, in the order of the items."""
    items: dict[Any, list[Record]] = {}
    with samples.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                record = json.loads(line)
                items.setdefault(record.get("doc_id"), []).append(record)
    return items


def _pages(items: Sequence[list[Record]]) -> Iterator[list[list[Record]]]:
    """Items by page; an empty task has one empty page."""
    page: list[list[Record]] = []
    size = 0
    for item in items:
        length = min(len(json.dumps(item, default=str)), 4 * TEXT_CHARACTERS)
        if page and (len(page) == ITEMS_PER_PAGE or size + length > PAGE_CHARACTERS):
            yield page
            page, size = [], 0
        page.append(item)
        size += length
    yield page


def _body(items: Sequence[list[Record]], metric: str, pager: str) -> Iterator[str]:
    prompts = [prompt for item in items for prompt, _ in _arguments(item[0])]
    common = _common(prompts) if len(items) > 1 else ""
    yield pager
    box = "<input type=checkbox id=only_wrong><label for=only_wrong>Hide items that are right</label>"
    yield f"<p class=filter>{box}</p>"
    if common:
        summary = (
            f"Every prompt of this page begins with these {len(common):,} characters, and goes on as its item says"
        )
        text = _text(common, keep_end=True)
        yield f"<div class=card><details><summary>{summary}</summary>{text}</details></div>"
    yield "<main class=items>"
    for item in items:
        yield _item(item, metric, len(common))
    yield f"</main>{pager}"


def _common(prompts: Sequence[str]) -> str:
    """What all prompts begin with, up to the end of a line; empty if that is short."""
    first, last = min(prompts, default=""), max(prompts, default="")  # what these two share, all share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    common = first[:same]
    common = common[: common.rfind("\n") + 1]
    return common if len(common) >= COMMON_CHARACTERS else ""


def _arguments(record: Record) -> list[tuple[str, Any]]:
    """Prompt, and continuation or settings of generation, of each request. Saved by lm-eval they are mappings."""
    found = record.get("arguments", ())
    requests = list(found.values()) if isinstance(found, Mapping) else list(found)
    pairs = [list(each.values()) if isinstance(each, Mapping) else list(each) for each in requests]
    return [(str(pair[0]), pair[1] if len(pair) > 1 else None) for pair in pairs if pair]


def verdict(records: Sequence[Record], metric: str) -> float | None:
    """What the headline metric gave the item: 1 right, 0 wrong, or a share; None if it is not a number for one item."""
    name, _, wanted = metric.partition(",")
    for record in records:
        if record.get("filter", "none") == (wanted or "none"):
            value = record.get(name)
            if isinstance(value, bool | int | float):
                return float(value)
    return None


def _item(records: Sequence[Record], metric: str, common: int) -> str:
    value = verdict(records, metric)
    kind = {1.0: "right", 0.0: "wrong"}.get(value, "") if value is not None else ""
    word = kind or ("" if value is None else f"{value:.3g}")
    record = records[0]
    requests = _arguments(record)
    rest = requests[0][0][common:] if requests else ""
    start = " ".join(rest[-400:].split())[-160:]
    parts = list(
        _options(record, requests, common) if _is_choice(record, requests) else _generated(records, requests, common)
    )
    if (target := record.get("target", "")) != "":
        parts.append(f"<h4>Gold answer</h4>{_text(_plain(target))}")
    parts.append(f"<h4>Metrics</h4><p>{_metrics(records)}</p>")
    parts.append(
        f"<details><summary>The item as in the data set</summary>{_text(_plain(record.get('doc', '')))}</details>"
    )
    number = escape(record.get("doc_id", ""))
    summary = f"<span class=verdict>{escape(word)}</span><span>{number}</span><span class=start>{escape(start)}</span>"
    return f"<details class='card {kind}'><summary>{summary}</summary>{''.join(parts)}</details>"


def _is_choice(record: Record, requests: Sequence[tuple[str, Any]]) -> bool:
    return bool(requests) and all(isinstance(continuation, str) for _, continuation in requests)


def _options(record: Record, requests: Sequence[tuple[str, Any]], common: int) -> Iterator[str]:
    """Log-likelihoods of the options, the prompt first if all have the same."""
    shared = len({prompt for prompt, _ in requests}) == 1
    if shared:
        yield f"<h4>Prompt{_after(common)}</h4>{_text(requests[0][0][common:], keep_end=True)}"
    answers = [_likelihood(response) for response in record.get("filtered_resps", ())]
    gold = _gold(record.get("target"), [str(continuation) for _, continuation in requests])
    finite = [answer for answer in answers if answer is not None]
    rows = []
    for index, (prompt, continuation) in enumerate(requests[:OPTIONS_SHOWN]):
        answer = answers[index] if index < len(answers) else None
        per_character = "" if answer is None else f"{answer / max(1, len(str(continuation).strip())):.3f}"
        said = [
            text
            for text, holds in (("gold", index == gold), ("likeliest", answer is not None and answer == max(finite)))
            if holds
        ]
        text = str(continuation) if shared else f"{prompt[common:][-TEXT_CHARACTERS:]}⟨{continuation}⟩"
        figures = f"<td>{'' if answer is None else f'{answer:.3f}'}<td>{per_character}"
        rows.append(
            f"<tr><td class=text>{escape(text[:TEXT_CHARACTERS])}{figures}<td class=text>{escape(', '.join(said))}</tr>"
        )
    head = "<tr><th scope=col>option<th scope=col>log-likelihood<th scope=col>per character<th scope=col></tr>"
    title = "Options" if shared else f"Prompts, with what is scored in ⟨ ⟩{_after(common)}"
    yield f"<h4>{title}</h4><div class=scroll><table class=plain><thead>{head}</thead>{''.join(rows)}</table></div>"
    if len(requests) > OPTIONS_SHOWN:
        yield f"<p>{len(requests) - OPTIONS_SHOWN} more options are in the file of samples.</p>"


def _generated(records: Sequence[Record], requests: Sequence[tuple[str, Any]], common: int) -> Iterator[str]:
    """The prompt, what the model wrote, and what each filter made of it."""
    for index, (prompt, settings) in enumerate(requests[:OPTIONS_SHOWN]):
        yield f"<h4>Prompt{_after(common)}</h4>{_text(prompt[common:], keep_end=True)}"
        responses = _at(records[0].get("resps"), index)
        for response in (responses if isinstance(responses, list) else [responses])[:OPTIONS_SHOWN]:
            yield f"<h4>The model's answer</h4>{_text(_plain(response))}"
        for record in records:
            filtered = _at(record.get("filtered_resps"), index)
            if filtered != responses and [filtered] != responses:
                name = "" if record.get("filter", "none") == "none" else f" ({record['filter']})"
                yield f"<h4>What was judged{escape(name)}</h4>{_text(_plain(filtered))}"
        if settings is not None:
            yield f"<details><summary>Settings of the request</summary>{_text(_plain(settings))}</details>"


def _at(values: Any, index: int) -> Any:
    return values[index] if isinstance(values, list | tuple) and index < len(values) else None


def _after(common: int) -> str:
    return f", after its first {common:,} characters above" if common else ""


def _likelihood(response: Any) -> float | None:
    """The log-likelihood in a filtered response: [number, greedy], or within a list of one."""
    while isinstance(response, list | tuple) and response:
        response = response[0]
    try:
        return float(response)
    except (TypeError, ValueError):
        return None


def _gold(target: Any, continuations: Sequence[str]) -> int | None:
    """Index of the gold option, if the target says which it is."""
    if isinstance(target, int) or (isinstance(target, str) and target.strip().isdecimal()):
        return int(target) if int(target) < len(continuations) else None
    same = [index for index, each in enumerate(continuations) if each.strip() == str(target).strip()]
    return same[0] if len(same) == 1 else None


def _metrics(records: Sequence[Record]) -> str:
    found = []
    for record in records:
        filtered = "" if record.get("filter", "none") == "none" else f", {record['filter']}"
        for name in record.get("metrics", ()):
            value = record.get(name)
            if isinstance(value, bool | int | float):
                found.append(f"{escape(name)}{escape(filtered)} {float(value):.4g}")
    return " · ".join(found) or "taken over all items together"


def _plain(value: Any) -> str:
    """A value as people read it: one line a key, with texts as they are."""
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        return "\n\n".join(map(_plain, value))
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_line(each)}" for key, each in value.items())
    return _line(value)


def _line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _text(text: str, *, keep_end: bool = False) -> str:
    """A text as it is, or its end or beginning if it is long."""
    if len(text) <= TEXT_CHARACTERS:
        return f"<pre dir=auto>{escape(text)}</pre>"
    left = len(text) - TEXT_CHARACTERS
    kept, note = (text[-TEXT_CHARACTERS:], "before") if keep_end else (text[:TEXT_CHARACTERS], "after")
    return f"<p>{left:,} more characters {note} these are in the file of samples.</p><pre dir=auto>{escape(kept)}</pre>"
