"""Tiny corpora for tests: varied invented words, three domains, several sources, both splits, fixed by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

SOURCES = (
    "english/web",
    "english/books",
    "english/encyclopedia",
    "multilingual/de",
    "multilingual/el",
    "multilingual/ja",
    "code/python",
    "code/c",
)
_ALPHABETS = {
    "multilingual/de": ("bdfghklmnprstwz", "aeiouäöü"),
    "multilingual/el": ("βγδζθκλμνξπρστφχψ", "αεηιουω"),
    "multilingual/ja": ("日本語文学校時間人山川水火木金土空海道", "のをにはがとでも"),
}
_LATIN = ("bcdfghjklmnprstvwyz", "aeiou")


def write_tiny_corpus(
    directory: Path, seed: int = 0, num_documents: int = 240, sources: Sequence[str] = SOURCES
) -> list[Path]:
    """Write english.jsonl, multilingual.jsonl and code.jsonl in the form of the shipped corpus; return their paths.

    A file a domain. Sources take turns, and every tenth document of a source is held out. A document has about 1 kB.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    words = {source: _vocabulary(rng, *_ALPHABETS.get(source, _LATIN)) for source in sources}
    lines: dict[str, list[str]] = {source.split("/")[0]: [] for source in sources}
    for number in range(num_documents):
        source = sources[number % len(sources)]
        domain, category = source.split("/")
        text = _program(rng, words[source]) if domain == "code" else _prose(rng, words[source])
        record = {
            "id": f"{source}/{number}",
            "text": text,
            "source": source,
            "language": category if domain == "multilingual" else "en",
            "origin": "invented",
            "split": "heldout" if number // len(sources) % 10 == 9 else "train",
        }
        lines[domain].append(json.dumps(record, ensure_ascii=False))
    paths = []
    for domain, records in lines.items():
        paths.append(directory / f"{domain}.jsonl")
        paths[-1].write_text("\n".join(records) + "\n", encoding="utf-8")
    return paths


def _vocabulary(rng: random.Random, consonants: str, vowels: str) -> list[str]:
    syllables = [c + v for c in consonants for v in vowels]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]


def _pick(rng: random.Random, words: list[str]) -> str:
    # Zipf-like: low ranks are drawn far more often, so that there is something to learn.
    return words[int(len(words) * rng.random() ** 3)]


def _prose(rng: random.Random, words: list[str]) -> str:
    paragraphs = []
    for _ in range(rng.randint(2, 4)):
        sentences = []
        for _ in range(rng.randint(3, 7)):
            sentence = " ".join(_pick(rng, words) for _ in range(rng.randint(4, 12)))
            sentences.append(sentence.capitalize() + rng.choice([".", ".", ".", "?", f" {rng.randint(1, 2030)}."]))
        paragraphs.append(" ".join(sentences))
    return "\n\n".join(paragraphs)


def _program(rng: random.Random, words: list[str]) -> str:
    functions = []
    for _ in range(rng.randint(3, 7)):
        name, first, second = (_pick(rng, words) for _ in range(3))
        body = [f"def {name}({first}, {second}=0):"]
        for _ in range(rng.randint(2, 6)):
            body.append(f"    {_pick(rng, words)} = {first} {rng.choice('+-*')} {rng.randint(0, 999)}")
        body.append(f"\n    return {second}\t# {_pick(rng, words)}")
        functions.append("\n".join(body))
    return "\n\n".join(functions) + "\n"
