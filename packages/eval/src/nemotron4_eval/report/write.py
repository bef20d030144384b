"""Writes all files of an evaluation's report beside its eval.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron4_common.staging import write_file
from nemotron4_eval.report.export import as_json, comma_separated, every_eval_ever, markdown
from nemotron4_eval.report.page import sections
from nemotron4_eval.report.records import write_records
from nemotron4_eval.report.shell import write_page
from nemotron4_eval.report.tables import model_name, shown_tables
from nemotron4_eval.suites.suite import Benchmark

REPORT_FILE = "report.html"


def write_report(out: Path, evaluation: Mapping[str, Any], benchmarks: Sequence[Benchmark] | None = None) -> Path:
    """Write report.html, pages of items, tables.{md,csv,json} and every_eval_ever.json; returns the first.

    `evaluation` is eval.json of a suite of benchmarks (`suites.results.Evaluation`), whose samples are in `out`.
    `benchmarks` say which tasks fill which cells; None means those of this package.
    """
    tables = shown_tables(evaluation, benchmarks)
    model = model_name(evaluation)
    records = {
        name: page
        for name, task in evaluation["tasks"].items()
        if (page := write_records(out, name, task, model)) is not None
    }
    for name, text in (
        ("tables.md", markdown(tables)),
        ("tables.csv", comma_separated(tables)),
        ("tables.json", as_json(tables)),
        ("every_eval_ever.json", every_eval_ever(evaluation)),
    ):
        write_file(out / name, text.encode("utf-8", errors="backslashreplace"))
    write_page(out / REPORT_FILE, f"nemotron4: evaluation of {model}", sections(evaluation, tables, records))
    return out / REPORT_FILE
