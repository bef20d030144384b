"""heldout_continuation: does the model know which passage continues a held-out document?

Four continuations with the same number of characters, one true and three from other held-out documents: of the same
source if it has four documents that are long enough, otherwise of the same domain. Chance is 1 in 4.
Invariant: items are a pure function of (held-out documents, seed, num_items).
"""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from nemotron4_eval.heldout.text import HeldoutText, domain_of

NUM_CHOICES = 4
CONTEXT_CHARACTERS = 512
CONTINUATION_CHARACTERS = 64


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question."""

    source: str
    """Source of the document."""
    context: str
    """A passage of it."""
    choices: list[str]
    """Four continuations of equal length in characters."""
    label: int
    """Index of the true one."""


def make_items(
    texts: list[HeldoutText],
    *,
    num_items: int,
    seed: int,
    context_characters: int = CONTEXT_CHARACTERS,
    continuation_characters: int = CONTINUATION_CHARACTERS,
) -> list[Item]:
    """At most `num_items` questions, equally many per domain; ValueError if no domain has enough documents."""
    shortest = context_characters + continuation_characters
    documents = {text.source: [d for each in text.texts if len(d := each.decode()) >= shortest] for text in texts}
    domains = dict.fromkeys(domain_of(source) for source in documents)
    usable = [domain for domain in domains if len(_domain_documents(documents, domain)) >= NUM_CHOICES]
    if not usable:
        raise ValueError(
            f"suite.tasks (heldout_continuation): needs {NUM_CHOICES} held-out documents of at least {shortest} "
            "characters in one domain; prepare a corpus with more held-out text or leave the task out"
        )
    rng = random.Random(seed)
    items: list[Item] = []
    for position, domain in enumerate(usable):
        share = num_items // len(usable) + (position < num_items % len(usable))
        sources = [s for s, found in documents.items() if found and domain_of(s) == domain]
        pool = _domain_documents(documents, domain)
        # Sources take turns, so that a large one does not crowd out the others.
        for turn in range(share):
            source = sources[turn % len(sources)]
            own = documents[source]
            others = own if len(own) >= NUM_CHOICES else pool
            items.append(_item(source, own, others, rng, context_characters, continuation_characters))
    return items


def write_task(items: list[Item], directory: Path) -> Path:
    """Write the items and a task YAML that reads them into `directory`; returns the YAML's path."""
    data = directory / "heldout_continuation.json"
    data.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items), encoding="utf-8")
    task = directory / "heldout_continuation.yaml"
    kwargs = {"data_files": {"test": str(data)}, "cache_dir": str(directory / "cache")}
    shipped = Path(__file__).parent / "heldout_continuation.yaml"
    # JSON is YAML, so paths are quoted correctly; but YAML has no surrogate pairs, which ASCII JSON would write.
    lines = {"include": str(shipped), "dataset_kwargs": kwargs}
    text = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in lines.items())
    task.write_text(text, encoding="utf-8")
    return task


def _domain_documents(documents: dict[str, list[str]], domain: str) -> list[str]:
    return [d for source, found in documents.items() if domain_of(source) == domain for d in found]


def _item(source: str, own: list[str], others: list[str], rng: random.Random, context: int, continuation: int) -> Item:
    document = rng.choice(own)
    cut = _cut(document, rng, context, continuation)
    truth = document[cut : cut + continuation]
    candidates = [other for other in others if other is not document]
    distractors = []
    for other in rng.sample(candidates, NUM_CHOICES - 1):
        start = _cut(other, rng, context, continuation)
        distractors.append(other[start : start + continuation])
    label = rng.randrange(NUM_CHOICES)
    choices = [*distractors[:label], truth, *distractors[label:]]
    return Item(source=source, context=document[cut - context : cut], choices=choices, label=label)


def _cut(document: str, rng: random.Random, context: int, continuation: int) -> int:
    """A place to cut, before a space if there is one: the boundary of a word is a boundary of tokens."""
    places = range(context, len(document) - continuation + 1)
    spaces = [place for place in places if document[place] == " " and document[place - 1] != " "]
    return rng.choice(spaces or places)
