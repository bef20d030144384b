"""report.html and the pages of items: what they say, and that nothing a model wrote becomes a part of them."""

import copy
import html
import json
import re
from html.parser import HTMLParser

import made_up_evaluation as made
import pytest

from nemotron4_eval.report import records
from nemotron4_eval.report.shell import escape, page
from nemotron4_eval.suites.paper import load_paper

VOID = {"meta", "link", "input", "br", "img"}
OPTIONAL = {"tr", "td", "th", "thead", "tbody", "li"}
"""Tags whose end may be left out."""


class Tags(HTMLParser):
    """The tags of a page, what is in them as text, and which were not closed."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID | OPTIONAL:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in OPTIONAL:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(report, name="report.html"):
    content = (report / name).read_text(encoding="utf-8")
    tags = Tags(content)
    assert tags.open == []
    return tags, " ".join(" ".join(tags.text).split())


def test_the_page_is_one_file_that_loads_nothing(report):
    tags, _ = read(report)
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in tags.tags}
    links = [attributes["href"] for _, attributes in tags.tags if "href" in attributes]
    inside = {attributes["id"] for _, attributes in tags.tags if "id" in attributes}
    for link in links:
        assert link == "data:," or link.lstrip("#") in inside if link[0] in "d#" else (report / link).is_file(), link
    assert "default-src 'none'" in (report / "report.html").read_text()


def test_it_says_what_ran_and_what_is_missing_with_the_command(report):
    _, text = read(report)
    assert "67 of 82 of the tables' cells measured" in text
    assert "trained on 8 T tokens" in text
    assert "TS: its toolchain was not found apt-get install node-typescript" in text
    assert "TyDiQA-GoldP: not in suite.data (evalsets)" in text
    assert "contamination unknown: no manifest" in text
    assert "UDP sockets" in text
    assert "A quick look" not in text


def test_every_table_has_its_numbers_notes_and_coverage(report):
    tags, text = read(report)
    assert [a["id"] for tag, a in tags.tags if tag == "section"] == [f"table_{n}" for n in range(3, 12)]
    for table in load_paper().tables.values():
        assert f"Table {table.number}. {table.title}" in text
        assert all(note in text for note in table.notes)
    assert "9 of 11 languages" in text
    assert "as printed; by the rule of its column it is 66.35" in text
    assert "MMLU here is the mean over questions" in text
    titles = [a["title"] for tag, a in tags.tags if tag == "span" and a.get("class") == "why"]
    assert "Julia: its toolchain was not found" in titles
    assert "no mean over missing cells" in titles


def test_bars_tell_their_numbers_and_absent_ones_their_reason(report):
    tags, text = read(report)
    said = [a["aria-label"] for tag, a in tags.tags if tag == "svg" and "aria-label" in a]
    mmlu = next(label for label in said if label.startswith("MMLU"))
    assert re.fullmatch(r"MMLU: made_up_15b 5\d\.\d; 95 % interval .*; chance 25; Nemotron-4 15B 64\.2", mmlu)
    assert len(said) == 9
    assert "FLORES (spBLEU) – no mean over missing cells, 2 of 7 languages" in text


def test_what_one_command_brings_is_one_row(tmp_path):
    whole = made.evaluation()
    commands = ["fetch all", "fetch all", ""]
    missing = [
        made.lack(7, f"task_{i}", "data", f"no items of {i}; `{command}`, or elsewhere" if command else "no", command)
        for i, command in enumerate(commands)
    ]
    _, text = read(made.write(tmp_path, whole | {"missing": missing}, {}).parent)
    assert "task_0, task_1 7 no items of 0 (and 1 like it) fetch all task_2 7 no The seven" in text


def test_verdicts_of_programs_are_readable(tmp_path):
    task = made.evaluation()["tasks"]["t6_js"]
    found = {"passed": False, "status": "compile error", "stderr": "line 1\n  <oops>"}
    record = made.generated(0, "none") | {"filtered_resps": [[found, found]], "metrics": ["pass@1"], "pass@1": 0.0}
    made.save(tmp_path, {}, {"t6_js": [record | {"target": ""}]})
    records.write_records(tmp_path, "t6_js", task, "m")
    content = (tmp_path / "samples/t6_js.html").read_text()
    assert "passed: false\nstatus: compile error\nstderr: line 1\n  &lt;oops&gt;\n\npassed" in content
    assert "What was judged</h4>" in content
    assert "Gold answer" not in content


def test_a_limited_run_says_that_it_is_no_score(tmp_path):
    _, text = read(made.write(tmp_path, made.evaluation(limit=5), {}).parent)
    assert "A quick look: at most 5 items of each task were run" in text


def test_an_evaluation_of_one_benchmark_shows_one_table(tmp_path):
    whole = made.evaluation()
    part = whole | {"tables": {"4": whole["tables"]["4"]}, "missing": [], "tasks": {}}
    part["settings"] = whole["settings"] | {"sandbox": None, "contamination": {"mmlu": {"documents_dropped": 3}}}
    tags, text = read(made.write(tmp_path, part, {}).parent)
    assert [a["id"] for tag, a in tags.tags if tag == "section"] == ["table_4"]
    assert "none missing" in text
    assert "level at which programs were held" not in text
    assert "documents dropped 3" in text


def test_items_are_one_click_away_with_prompt_answer_gold_and_verdict(report):
    tags, _ = read(report)
    assert "samples/t5_gsm8k.html" in [a.get("href") for _, a in tags.tags]
    content = (report / "samples/t5_gsm8k.html").read_text(encoding="utf-8")
    assert content.count("<details class='card right'>") == 4
    _, text = read(report, "samples/t5_gsm8k.html")
    assert "wrong 4 Q: How much is 4 and 4?" in text
    assert "The model's answer 4 + 4 = 8. The answer is 9." in text
    assert "exact_match, strict 0 · exact_match, flexible 0" in text


def test_the_prompt_is_exact_shared_beginning_and_rest(report):
    """What a page shows once and what it shows for an item are together the prompt that the model saw."""
    content = (report / "samples/t5_gsm8k.html").read_text(encoding="utf-8")
    shared, first = (html.unescape(text) for text in re.findall(r"<pre dir=auto>(.*?)</pre>", content, re.DOTALL)[:2])
    assert shared + first == made.generated(0, "strict")["arguments"]["gen_args_0"]["arg_0"]


def test_options_show_what_was_scored(report):
    _, text = read(report, "samples/t3_arc-e.html")
    assert "a leaf -4.200 -0.700 gold, likeliest" in text
    _, text = read(report, "samples/t3_winogrande.html")
    assert "Made up: the shelf⟨ fell.⟩ -2.000 -0.400 likeliest" in text


def test_what_a_model_wrote_is_only_text(report):
    for name in ("t5_gsm8k", "t3_arc-e"):
        tags, text = read(report, f"samples/{name}.html")
        assert not {"script", "img"} & {tag for tag, _ in tags.tags}
        assert "<script>document.title='owned'</script>" in text
        assert r"\u001b[31m\u202egnp.exe\u0000\ud800" in text


@pytest.mark.parametrize("text", ["'\"><b", "a\u200cb می‌خواهم", "\x07\u2066", "日本\n\tx"])
def test_escape_leaves_no_markup_and_shows_control_characters(text):
    shown = escape(text)
    assert not set(shown) & set("<>\"'\x07\u2066")
    assert html.unescape(shown).replace(r"\u0007", "\x07").replace(r"\u2066", "\u2066") == text


def test_a_name_from_outside_is_escaped_everywhere(tmp_path):
    hostile = made.evaluation() | {"model": "runs/<script>alert(1)</script>'\"", "suite": made.HOSTILE}
    hostile = copy.deepcopy(hostile)
    hostile["missing"][0]["message"] = hostile["missing"][0]["command"] = made.HOSTILE
    hostile["tables"]["6"][0]["cells"]["Julia"]["missing"] = made.HOSTILE
    task = hostile["tasks"]["t3_arc-e"]
    for key in ("metric", "version", "dataset", "dataset_digest"):
        task[key] = made.HOSTILE
    hostile["settings"][made.HOSTILE] = {made.HOSTILE: [made.HOSTILE]}
    tags, _ = read(made.write(tmp_path, hostile, {}).parent)
    assert not {"script", "img"} & {tag for tag, _ in tags.tags}
    assert not any(name.startswith("on") for _, attributes in tags.tags for name in attributes)


def test_pages_are_bounded_and_say_what_they_leave_out(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ITEMS_PER_PAGE", 3)
    monkeypatch.setattr(records, "TEXT_CHARACTERS", 50)
    task = made.evaluation()["tasks"]["t3_arc-e"]
    (tmp_path / "samples").mkdir()
    long = made.choice(0) | {"arguments": [["x" * 1_000, " y"]] * 60, "filtered_resps": [[-1.0, False]] * 60}
    lines = [json.dumps(made.choice(i) if i else long) + "\n" for i in range(7)]
    (tmp_path / "samples/t3_arc-e.jsonl").write_text("".join(lines))
    (tmp_path / "samples/t3_arc-e.9.html").write_text("of a longer run before")
    (tmp_path / "samples/t3_arc-e_more.html").write_text("of another task")
    assert records.write_records(tmp_path, "t3_arc-e", task, "m") == "samples/t3_arc-e.html"
    names = sorted(path.name for path in (tmp_path / "samples").glob("*.html"))
    assert names == ["t3_arc-e.2.html", "t3_arc-e.3.html", "t3_arc-e.html", "t3_arc-e_more.html"]
    _, text = read(tmp_path, "samples/t3_arc-e.html")
    assert "950 more characters before these are in the file of samples" in text
    assert "10 more options are in the file of samples" in text


def test_without_samples_there_is_no_page(tmp_path):
    assert records.write_records(tmp_path, "t3_arc-e", made.evaluation()["tasks"]["t3_arc-e"], "m") is None


@pytest.mark.parametrize(
    ("metric", "value"),
    [("exact_match,strict", 1.0), ("exact_match,flexible", 0.0), ("exact_match", None), ("acc", None)],
)
def test_the_verdict_is_that_of_the_headline_metric_and_filter(metric, value):
    found = [{"filter": "strict", "exact_match": 1.0}, {"filter": "flexible", "exact_match": False}]
    assert records.verdict(found, metric) == value


def test_metrics_over_all_items_have_no_verdict():
    assert records.verdict([{"filter": "none", "bleu": ["gold", "answer"]}], "bleu") is None


def test_a_page_has_a_language_and_fits_narrow_screens():
    content = page("t", ["<h1>t</h1>"])
    assert '<html lang="en">' in content
    assert "width=device-width" in content
    assert "prefers-color-scheme: dark" in content
