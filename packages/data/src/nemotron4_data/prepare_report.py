"""The report of a prepared corpus: one self-contained page, `report.html` beside the manifest.

Built from the manifest alone, so it can be rewritten at any time. A section appears if there are facts for it:

- stage documents: `sources`, `rejected`, `curation` (`CurationReport.to_json`), `dedup` (`DedupReport.to_json`), and
  if present `unread` {reason: [bytes not read, bytes]}, `quality` (`quality_facts`), `benchmarks` {name: {texts,
  short}}, `licenses` {name: {documents, bytes}};
- stage tokenizer: `vocab_size` and the special ids;
- stage tokens: `sources`, and if present `not_exact` (from `tokenise_documents`) and `fertility` (rows as dicts);
- if present the manifest's `blend` {name, tokens, sources: {source: {weight, epochs}}}.

Invariant: text of documents, ids and reasons is untrusted and is escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nemotron4_common.html_page import bar, details, page, table
from nemotron4_common.staging import write_file

from .document_fields import InexactDocuments
from .fertility import FertilityRow, fertility_chart
from .manifest import STAGES, Manifest
from .rejections import in_words

REPORT_FILE = "report.html"
_EARLY_STEPS = ("repair", "language")
_TITLES = {
    "repair": "Unicode repair",
    "language": "language identification",
    "exact": "exact duplicates",
    "near": "near duplicates",
    "gopher_quality": "Gopher quality rules",
    "gopher_repetition": "Gopher repetition rules",
    "c4": "C4 rules",
    "data_everywhere": "Data, Data Everywhere limits",
    "code": "code filters",
    "decontamination": "decontamination",
    "pii": "personal data",
    "lm_quality": "language-model quality",
}
_KEPT, _DROPPED = "#2a6fbb", "#d1701f"
_BUCKET_COLOURS = {"head": "#2a6fbb", "middle": "#8fb8e0", "tail": "#d1701f"}
_REASONS_WITH_EXAMPLES = 20
Size = Mapping[str, int]


def write_report(manifest: Manifest, directory: Path) -> Path:
    """Write the page; returns its path."""
    facts = {name: manifest.stages[name].facts if name in manifest.stages else {} for name in STAGES}
    documents, tokenizer, tokens = facts["documents"], facts["tokenizer"], facts["tokens"]
    sections = [
        *_corpus(manifest, documents, tokens),
        *_funnel(documents),
        *_duplicates(documents.get("dedup", {})),
        *_rejected(documents.get("rejected", {}), documents.get("unread", {})),
        *_decontamination(documents),
        *_quality(documents.get("quality")),
        *_tokenizer(manifest, tokenizer, tokens),
        *_blend(manifest.blend),
    ]
    settings = html.escape(json.dumps(manifest.settings, indent=1, ensure_ascii=False))
    sections.append(details("Settings", f"<pre>{settings}</pre>"))
    path = directory / REPORT_FILE
    write_file(path, page(f"nemotron4: {manifest.name}", sections).encode("utf-8", errors="backslashreplace"))
    return path


def cause_line(cause: str, found: InexactDocuments) -> str:
    """Why documents cannot be restored exactly, as "cause (3 documents; x becomes y; the ids of the first)"."""
    ids = ", ".join(repr(example["id"][:80]) for example in found["examples"])
    return f"{cause} ({found['documents']:,} documents; {found['examples'][0]['detail']}; {ids})"


def _corpus(manifest: Manifest, documents: Mapping[str, Any], tokens: Mapping[str, Any]) -> Iterator[str]:
    sources = tokens.get("sources") or documents.get("sources", {})
    whole = _total(size for splits in sources.values() for size in splits.values())
    lead = f"{whole['documents']:,} documents, {_mb(whole)} MB of text in {len(sources):,} sources"
    if whole.get("tokens"):
        lead += f", {whole['tokens']:,} tokens, {whole['bytes'] / whole['tokens']:.2f} bytes per token"
    digest = f"<br>digest <code>{html.escape(manifest.digest[:16])}</code>" if manifest.digest else ""
    yield f"<h1>{html.escape(manifest.name)}</h1><p class=lead>{lead}{digest}</p>"
    yield "<h2>The corpus</h2>"
    header = ("domain", "sources", "documents", "held out", "MB", "tokens", "bytes/token", "share of MB")
    domains: dict[str, list[str]] = {}
    for source in sorted(sources):
        domains.setdefault(source.split("/")[0], []).append(source)
    rows = []
    for domain, names in domains.items():
        share = _total(size for name in names for size in sources[name].values())["bytes"] / max(1, whole["bytes"])
        rows.append((domain, f"{len(names):,}", *_size_cells(sources, names), f"{share:.1%}"))
    yield table(header, rows)
    by_source = [(name, *_size_cells(sources, [name])) for name in sorted(sources)]
    yield details("By source", table(("source", *header[2:-1]), by_source))
    if licenses := documents.get("licenses"):
        by_size = sorted(licenses.items(), key=lambda item: (-item[1]["bytes"], item[0]))
        yield details("Licences", table(("licence", "documents", "MB"), _sizes(by_size)))


def _size_cells(sources: Mapping[str, Mapping[str, Size]], names: Iterable[str]) -> tuple[str, ...]:
    names = list(names)
    size = _total(size for name in names for size in sources[name].values())
    held_out = _total(sources[name]["heldout"] for name in names if "heldout" in sources[name])
    count = size.get("tokens", 0)
    ratio = f"{size['bytes'] / count:.2f}" if count else ""
    return f"{size['documents']:,}", f"{held_out['documents']:,}", _mb(size), f"{count:,}" if count else "", ratio


def _passes(documents: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Steps and deduplication in the order they ran, all in the form of a step."""
    steps = documents.get("curation", {}).get("steps", [])
    dedup = [
        {"name": name, "changed": {}, "dropped": {name: found["dropped"]}, "examples": {name: found["examples"]}}
        for name, found in documents.get("dedup", {}).items()
    ]
    early = [step for step in steps if step["name"] in _EARLY_STEPS]
    return [*early, *dedup, *(step for step in steps if step["name"] not in _EARLY_STEPS)]


def _funnel(documents: Mapping[str, Any]) -> Iterator[str]:
    passes = _passes(documents)
    if not passes:
        return
    kept = _total(size for splits in documents["sources"].values() for size in splits.values())
    dropped = [_total(s for sizes in step["dropped"].values() for s in sizes.values()) for step in passes]
    left = first = kept["documents"] + sum(size["documents"] for size in dropped)
    yield "<h2>What each step did</h2>"
    yield f"<p class=lead>{first:,} documents came in, {kept['documents']:,} are left; the bar shows what is left.</p>"
    rows = []
    for step, size in zip(passes, dropped, strict=True):
        seen = _total(step["seen"].values())["documents"] if "seen" in step else left
        left -= size["documents"]
        changed = _total(step["changed"].values())["documents"]
        parts = ((left / max(1, first), _KEPT), (size["documents"] / max(1, first), _DROPPED))
        share = f"{size['documents'] / max(1, seen):.2%}"
        counts = (
            f"{seen:,}",
            f"{size['documents']:,}",
            share,
            _mb(size),
            f"{changed:,}" if changed else "",
            f"{left:,}",
        )
        rows.append((_title(step["name"]), *counts, bar(parts)))
    yield table(("step", "seen", "dropped", "share", "MB dropped", "changed", "left", ""), rows)
    for step, size in zip(passes, dropped, strict=True):
        if size["documents"]:
            summary = f"{_title(step['name'])}: {size['documents']:,} dropped, by reason, with examples"
            yield details(summary, _reasons(step))


def _reasons(step: Mapping[str, Any]) -> str:
    totals = {reason: _total(sizes.values()) for reason, sizes in step["dropped"].items()}
    by_size = sorted(totals.items(), key=lambda item: (-item[1]["documents"], item[0]))
    parts = [table(("reason", "documents", "MB"), _sizes(by_size))] if len(by_size) > 1 else []
    for reason, _ in by_size[:_REASONS_WITH_EXAMPLES]:
        parts.append(f"<h3>{html.escape(reason)}</h3>")
        parts += [_example(example) for example in step["examples"].get(reason, [])]
    return "".join(parts)


def _example(example: Mapping[str, str]) -> str:
    origin = f"{example['source']} · {example['id']}"
    if "kept_id" in example:
        origin += f" · kept instead: {example['kept_id']}"
    return f"<blockquote><p>{html.escape(example['text'])} …</p><small>{html.escape(origin)}</small></blockquote>"


def _duplicates(dedup: Mapping[str, Any]) -> Iterator[str]:
    domains: dict[str, dict[str, list[Size]]] = {}
    for kind, found in dedup.items():
        for source, size in found["dropped"].items():
            domains.setdefault(source.split("/")[0], {}).setdefault(kind, []).append(size)
    if domains:
        yield "<h2>Duplicates</h2>"
        header = ["domain"]
        for kind in dedup:
            header += [_title(kind), "MB"]
        rows = []
        for domain, kinds in sorted(domains.items()):
            totals = [_total(kinds.get(kind, [])) for kind in dedup]
            rows.append((domain, *(cell for size in totals for cell in (f"{size['documents']:,}", _mb(size)))))
        yield table(header, rows)


def _rejected(rejected: Mapping[str, int], unread: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    if rejected:
        yield "<h2>Rejected records</h2><p class=lead>Kept in <code>rejected/</code>, with place and reason.</p>"
        rows = [
            (reason, f"{count:,}", in_words(unread[reason]) if reason in unread else "")
            for reason, count in sorted(rejected.items())
        ]
        yield table(("reason", "records", "of damaged files"), rows)


def _decontamination(documents: Mapping[str, Any]) -> Iterator[str]:
    steps = {step["name"]: step for step in documents.get("curation", {}).get("steps", [])}
    benchmarks = documents.get("benchmarks", {})
    found = steps.get("decontamination", {}).get("dropped", {})
    if "decontamination" not in steps and not benchmarks:
        return
    yield "<h2>Decontamination</h2><p class=lead>Documents dropped because they hold a part of an evaluation item.</p>"
    rows = []
    for name in sorted({*benchmarks, *found}):
        size = _total(found.get(name, {}).values())
        texts = benchmarks.get(name)
        known = (f"{texts['texts']:,}", f"{texts['short']:,}") if texts else ("", "")
        rows.append((name, *known, f"{size['documents']:,}", _mb(size)))
    yield table(("benchmark", "texts", "too short to find", "documents dropped", "MB"), rows)


def _quality(quality: Mapping[str, Any] | None) -> Iterator[str]:
    if not quality or not quality["languages"]:
        return
    low, high = quality["percentiles"]
    yield "<h2>Language-model quality</h2>"
    yield (
        f"<p class=lead>Bits per byte under the scorer <code>{html.escape(quality['model_dir'])}</code>; the best "
        f"{low:g} % of each language are head, up to {high:g} % middle. Kept: {html.escape(', '.join(quality['keep']))}"
        ".</p>"
    )
    rows = []
    for language, found in quality["languages"].items():
        counts, total = found["documents"], max(1, sum(found["documents"].values()))
        parts = [(counts[name] / total, colour) for name, colour in _BUCKET_COLOURS.items()]
        limits = (f"{found['head_max']:.3f}", f"{found['middle_max']:.3f}")
        rows.append((language, *(f"{counts[name]:,}" for name in _BUCKET_COLOURS), *limits, bar(parts)))
    yield table(("language", "head", "middle", "tail", "head up to", "middle up to", ""), rows)


def _tokenizer(manifest: Manifest, tokenizer: Mapping[str, Any], tokens: Mapping[str, Any]) -> Iterator[str]:
    if not tokenizer:
        return
    yield "<h2>The tokenizer</h2>"
    settings = manifest.settings.get("tokenizer", {})
    origin = f"taken from {settings['model']}" if settings.get("model") else "trained on this corpus"
    lead = f"{tokenizer['vocab_size']:,} pieces, {origin}"
    splits = [size for found in tokens.get("sources", {}).values() for size in found.values()]
    if splits:
        whole = _total(splits)
        exact = whole["documents"] - whole.get("not_exact", 0)
        lead += f"; {exact:,} of {whole['documents']:,} documents can be restored exactly from their tokens"
        if control_text := whole.get("control_text"):
            lead += f"; {control_text:,} contain the text of control pieces such as </s>, which is encoded as text"
    yield f"<p class=lead>{html.escape(lead)}.</p>"
    for cause, found in tokens.get("not_exact", {}).items():
        yield f"<p>Not exact: {html.escape(cause_line(cause, found))}.</p>"
    ids = [(name.removesuffix("_id"), str(value)) for name, value in tokenizer.items() if name.endswith("_id")]
    yield details("Special ids", table(("piece", "id"), ids))
    if found := tokens.get("fertility"):
        rows = [FertilityRow(**row) for row in found]
        header = ("language", "documents", "kB", "words", "tokens", "tokens/word", "bytes/token")
        cells = [
            (
                row.language + (" *" if row.counted == "characters" else ""),
                *(f"{number:,}" for number in (row.documents, row.bytes // 1000, row.words, row.tokens)),
                *(f"{ratio:.2f}" for ratio in (row.tokens_per_word, row.bytes_per_token)),
            )
            for row in rows
        ]
        yield "<h3>Fertility</h3>"
        yield "<p class=lead>On held-out documents. * Written without spaces: each character counts as a word.</p>"
        for kind, title in (("natural", "Natural languages"), ("programming", "Programming languages")):
            if of_kind := [row for row in rows if row.kind == kind]:
                yield f"<h3>{title}</h3>{fertility_chart(of_kind)}"
        yield details("As a table", table(header, cells))


def _blend(blend: Mapping[str, Any] | None) -> Iterator[str]:
    if not blend:
        return
    yield f"<h2>Blend</h2><p class=lead>{html.escape(blend['name'])}, over {blend['tokens']:,} tokens.</p>"
    domains: dict[str, float] = {}
    for source, row in blend["sources"].items():
        domains[source.split("/")[0]] = domains.get(source.split("/")[0], 0.0) + row["weight"]
    yield table(("domain", "weight"), [(domain, f"{weight:.1%}") for domain, weight in domains.items()])
    by_epochs = sorted(blend["sources"].items(), key=lambda item: (-item[1]["epochs"], item[0]))
    rows = [(source, f"{row['weight']:.3%}", f"{row['epochs']:.2f}") for source, row in by_epochs]
    yield details("Epochs by source, the most repeated first", table(("source", "weight", "epochs"), rows))


def _sizes(items: Iterable[tuple[str, Size]]) -> list[tuple[str, ...]]:
    return [(name, f"{size['documents']:,}", _mb(size)) for name, size in items]


def _total(sizes: Iterable[Size]) -> dict[str, int]:
    total = {"documents": 0, "bytes": 0}
    for size in sizes:
        for name, number in size.items():
            total[name] = total.get(name, 0) + number
    return total


def _mb(size: Size) -> str:
    return f"{size['bytes'] / 1e6:,.2f}"


def _title(name: str) -> str:
    return _TITLES.get(name, name)
