"""The page of a prepared corpus: sections for the facts that exist, and untrusted text that stays escaped."""

import html
from dataclasses import asdict
from html.parser import HTMLParser

from nemotron4_data import Corpus
from nemotron4_data.fertility import FertilityRow
from nemotron4_data.manifest import Manifest, Stage
from nemotron4_data.prepare_report import write_report

WILD = "<script>alert('x')</script> & \"quotes\" \ud800"
SECTIONS = (
    "The corpus",
    "What each step did",
    "Duplicates",
    "Rejected records",
    "Decontamination",
    "Language-model quality",
    "The tokenizer",
    "Blend",
)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.headings, self._cell, self._heading = [], [], [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True
        elif tag == "h2":
            self.headings.append("")
            self._heading = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")
        self._heading = self._heading and tag != "h2"

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data
        elif self._heading:
            self.headings[-1] += data


def size(documents, num_bytes):
    return {"documents": documents, "bytes": num_bytes}


def stage(**facts):
    return Stage(key="", upstream="", files={}, facts=facts)


def full_manifest():
    example = {"id": WILD, "source": "english/web", "text": WILD}
    steps = [
        {"name": "repair", "seen": {"english/web": size(100, 9_000)}, "changed": {"english/web": size(7, 700)}},
        {"name": "gopher_quality", "seen": {"english/web": size(88, 8_000)}, "changed": {}},
        {"name": "decontamination", "seen": {"english/web": size(80, 8_000)}, "changed": {}},
        {"name": WILD, "seen": {}, "changed": {}},
    ]
    for step in steps:
        step |= {"dropped": {}, "examples": {}}
    steps[1]["dropped"] = {"min_words": {"english/web": size(6, 600)}, WILD: {"english/web": size(2, 200)}}
    steps[1]["examples"] = {"min_words": [example], WILD: [example]}
    steps[2]["dropped"] = {"gsm8k": {"english/web": size(1, 1_000_000)}}
    documents = stage(
        sources={"english/web": {"train": size(78, 6_900), "heldout": size(1, 100)}},
        rejected={WILD: 3},
        curation={"steps": steps},
        dedup={
            "exact": {"dropped": {"english/web": size(12, 1_000)}, "examples": [{**example, "kept_id": WILD}]},
            "near": {"dropped": {}, "examples": []},
        },
        quality={
            "percentiles": [30.0, 60.0],
            "keep": ["head"],
            "model_dir": WILD,
            "languages": {
                "en": {"head_max": 1.0, "middle_max": 2.0, "documents": {"head": 30, "middle": 30, "tail": 40}}
            },
        },
        benchmarks={"gsm8k": {"texts": 1_319, "short": 4}},
        licenses={WILD: size(79, 7_000)},
    )
    tokens = stage(
        sources={
            "english/web": {
                "train": {**size(78, 6_900), "tokens": 2_300, "not_exact": 1},
                "heldout": {**size(1, 100), "tokens": 30, "not_exact": 0},
            }
        },
        fertility=[asdict(FertilityRow(kind="natural", language=WILD, documents=1, bytes=9, words=2, tokens=3))],
    )
    tokenizer = stage(vocab_size=1_024, eos_id=3)
    return Manifest(
        name=WILD,
        settings={"tokenizer": {"model": WILD}},
        stages={"documents": documents, "tokenizer": tokenizer, "tokens": tokens},
        blend={"name": WILD, "tokens": 5_000, "sources": {"english/web": {"weight": 1.0, "epochs": 2.17}}},
    )


def test_every_fact_has_its_place(tmp_path):
    page = Page(write_report(full_manifest(), tmp_path).read_text(encoding="utf-8"))
    assert page.headings == list(SECTIONS)
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["Unicode repair"] == ["100", "0", "0.00%", "0.00", "7", "100", ""]
    assert rows["exact duplicates"] == ["100", "12", "12.00%", "0.00", "", "88", ""]
    assert rows["Gopher quality rules"] == ["88", "8", "9.09%", "0.00", "", "80", ""]
    assert rows["decontamination"] == ["80", "1", "1.25%", "1.00", "", "79", ""]
    assert rows["gsm8k"] == ["1,319", "4", "1", "1.00"]
    assert rows["en"] == ["30", "30", "40", "1.000", "2.000", ""]
    order = [row[0] for row in page.rows]
    assert order.index("Unicode repair") < order.index("exact duplicates") < order.index("Gopher quality rules")


def test_untrusted_text_stays_text(tmp_path):
    text = write_report(full_manifest(), tmp_path).read_text(encoding="utf-8")
    assert "script" not in Page(text).tags
    assert html.escape("<script>alert('x')</script> & \"quotes\" ") in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_an_empty_manifest_and_a_real_one_make_a_page(tmp_path, corpus):
    empty = Page(write_report(Manifest(name="empty"), tmp_path).read_text())
    assert empty.headings == ["The corpus"]
    opened = Corpus.open(corpus.dir)
    page = Page(write_report(opened.manifest, tmp_path).read_text())
    assert page.headings == ["The corpus", "The tokenizer"]
    assert [row for row in page.rows if row[0] == "english/web"]
