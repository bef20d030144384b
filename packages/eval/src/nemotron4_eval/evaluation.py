"""`nemotron4 eval`: evaluates a model directory on held-out text, on benchmarks and on other harness tasks.

Invariants: what tasks need and do not find is listed before any runs; eval.json is written once, at the end; what a
stopped evaluation of benchmarks had finished is kept in `out`, and the same command continues it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nemotron4_common.extras import check_installed
from nemotron4_common.locks import exclusive
from nemotron4_common.ownership import check_new_or_ours
from nemotron4_common.rules import require
from nemotron4_common.system_errors import check_can_write, naming_place
from nemotron4_common.terminal import plain_console
from nemotron4_data import Tokenizer
from nemotron4_eval.eval_job import EvalJob
from nemotron4_eval.heldout.heldout_continuation import NUM_CHOICES
from nemotron4_eval.heldout.measure import HELDOUT_CONTINUATION, measure, named_tasks, open_heldout
from nemotron4_eval.heldout.result import check_output, print_bits, replaced_result, write_result
from nemotron4_eval.provenance import IDENTITY_KEYS, find_run, read_provenance
from nemotron4_eval.report.write import write_report
from nemotron4_eval.suites.config import DocumentStart, SuiteConfig
from nemotron4_eval.suites.contamination import contamination
from nemotron4_eval.suites.evaluate import PreparedSuite, prepare_suite
from nemotron4_eval.suites.needs import FAULT
from nemotron4_eval.suites.printing import print_missing, print_tables, print_tasks
from nemotron4_infer import LoadedModel, load_model_directory
from nemotron4_infer.likelihood import Progress as ProgressCallback
from nemotron4_infer.model_directory import check_model_directory, load_tokenizer
from nemotron4_model.hugging_face import load_config

if TYPE_CHECKING:
    from nemotron4_eval.harness.model import EngineLM

REQUESTS_FILE = "requests.db"
"""Results of single requests, from which a stopped evaluation continues."""
LOCK_FILE = "eval.lock"
"""Marks a directory of results as ours, and is held while they are made."""


def run_eval(job: EvalJob) -> float | None:
    """Measure, print tables and write the results.

    Returns, for a sweep, bits per byte of all held-out text, or without held-out text the average of the first table,
    of one without averages the first cell.
    """
    started = time.perf_counter()
    suite, out = job.suite, job.out_path
    provenance = read_provenance(Path(job.model_dir))
    _check_before(job)
    console = plain_console()
    with ExitStack() as stack:
        if not suite.is_heldout:
            stack.enter_context(_held(out))
        result = _measure(job, provenance)
        result.update({key: provenance[key] for key in IDENTITY_KEYS if key in provenance})
        if "tokens" in provenance:
            result["trained_tokens"] = provenance["tokens"]
        result["seconds"] = round(time.perf_counter() - started, 1)
        _print(result, console)  # first, so that it is shown even if the disk is full
        path = job.result_path
        if suite.is_heldout and (replaced := replaced_result(result, path)) is not None:
            console.print(f"replaces the evaluation of {replaced} that was there; out=DIR keeps both")
        with naming_place(path, "make room, or give another out"):
            write_result(result, path)
            if not suite.is_heldout:
                console.print(f"report: {write_report(out, result)}")
    console.print(f"written to {path} after {result['seconds']} s")
    if job.out is None and "run_id" in provenance and out.is_relative_to(job.model_dir):
        console.print(
            f"its run is no longer at {provenance['run_directory']}: for that run's report, copy the file to the run"
        )
    return _objective(result)


def _check_before(job: EvalJob) -> None:
    """Raise ValueError for what can be known to be wrong before anything is read or written."""
    suite, out = job.suite, job.out_path
    require(not out.exists() or out.is_dir(), "out", out, "is not a directory; give the directory of the results")
    check_can_write(job.result_path, "out")
    if suite.is_heldout:
        check_output(job.result_path)
    else:
        check_new_or_ours(out, "out", [LOCK_FILE])
    rule = "does not exist; give the directory of the items, or leave it out"
    require(suite.data is None or Path(suite.data).exists(), "suite.data", suite.data, rule)
    rule = "does not exist; give the SentencePiece model of FLORES-101"
    model = suite.flores_tokenizer
    require(model is None or Path(model).is_file(), "suite.flores_tokenizer", model, rule)
    if suite.tasks or suite.benchmarks:
        key = "suite.tasks" if suite.tasks else "suite.benchmarks"
        need = f"{key} ([{', '.join(suite.tasks or suite.benchmarks)}]): needs the LM Evaluation Harness"
        check_installed(need, ("lm_eval",), "nemotron4-eval[harness]")


@contextmanager
def _held(out: Path) -> Iterator[None]:
    with naming_place(out, "make room, or give another out"):
        out.mkdir(parents=True, exist_ok=True)
    with exclusive(out / LOCK_FILE, "out", out):
        yield


def _measure(job: EvalJob, provenance: dict[str, Any]) -> dict[str, Any]:
    suite, model_dir = job.suite, Path(job.model_dir)
    check_model_directory(model_dir)
    config = load_config(model_dir)
    tokenizer = load_tokenizer(model_dir, config.vocab_size)
    needs_text = suite.heldout or HELDOUT_CONTINUATION in suite.tasks
    heldout = open_heldout(job, tokenizer) if needs_text else None
    result: dict[str, Any] = {}
    with named_tasks(suite, heldout) as names:
        prepared = None
        if names or suite.benchmarks:
            prepared = _prepared(suite, names, config.max_sequence_length, tokenizer)
        loaded = load_model_directory(job.model_dir, job.dtype) if suite.heldout else None
        if loaded is not None and heldout is not None:
            with _progress_bar("held-out tokens") as (progress, _):
                result.update(measure(job, loaded, heldout, progress))
        result |= {
            "parameters": config.num_parameters,
            "tasks": {},
            "model": job.model_dir,
            "suite": suite.name,
        }
        if prepared is not None:
            result |= _run_tasks(job, prepared, loaded, provenance)
    return result


def _prepared(suite: SuiteConfig, names: Sequence[str], context_tokens: int, tokenizer: Tokenizer) -> PreparedSuite:
    with _progress_bar("what tasks need") as (progress, _):
        prepared = prepare_suite(
            suite,
            names,
            context_tokens=context_tokens,
            tokenizer=tokenizer,
            progress=progress,
            may_be_cut=[HELDOUT_CONTINUATION],
        )
    if prepared.needs.missing:
        print_missing(prepared.needs.missing, plain_console())
    return prepared


def _run_tasks(
    job: EvalJob, prepared: PreparedSuite, loaded: LoadedModel | None, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    directory, model_dir = None if job.suite.is_heldout else job.out_path, Path(job.model_dir)
    model = _identity(job)
    with _progress_bar("requests") as (progress, say):
        evaluation = prepared.run(_harness_model(job, loaded, directory, progress), directory, model, say)
    if HELDOUT_CONTINUATION in evaluation["tasks"]:
        evaluation["tasks"][HELDOUT_CONTINUATION]["chance"] = 1 / NUM_CHOICES
    if job.suite.is_heldout:
        return {"tasks": evaluation["tasks"]} | ({"missing": found} if (found := evaluation["missing"]) else {})
    evaluation["settings"] |= {
        "model": model,
        "contamination": contamination(provenance, find_run(model_dir, provenance), [job.data.dir]),
    }
    return dict(evaluation)


def _identity(job: EvalJob) -> dict[str, Any]:
    """What tells the model and the format of its computation from others."""
    from nemotron4_eval.harness.workers import ModelSource
    from nemotron4_infer.weights.load import fingerprint

    source = ModelSource.check(job.model_dir, job.dtype, None, job.suite.processes)
    return {
        "fingerprint": fingerprint(job.model_dir, source.dtype, source.quantization),
        "dtype": source.dtype.value,
        "quantization": source.quantization.value if source.quantization else None,
    }


def _harness_model(
    job: EvalJob, loaded: LoadedModel | None, directory: Path | None, progress: ProgressCallback
) -> "EngineLM":
    from nemotron4_eval.harness.model import EngineLM

    suite = job.suite
    start: Literal["eos", "none"] = "eos" if suite.document_start is DocumentStart.eos else "none"
    cache = directory / REQUESTS_FILE if directory else None
    if loaded is not None and suite.processes == 1:
        return EngineLM(loaded, progress, document_start=start, cache=cache, seed=suite.seed)
    return EngineLM.from_directory(
        job.model_dir,
        progress,
        dtype=job.dtype,
        processes=suite.processes,
        document_start=start,
        cache=cache,
        seed=suite.seed,
    )


def _print(result: Mapping[str, Any], console: Console) -> None:
    if "bits_per_byte" in result:
        print_bits(result, console)
    if result["tasks"]:
        print_tasks(result["tasks"], console)
    if result.get("tables"):
        print_tables(result["tables"], console)
    late = [entry for entry in result.get("missing", ()) if entry["kind"] == FAULT]  # the others were printed before
    if late:
        print_missing(late, console)


def _objective(result: Mapping[str, Any]) -> float | None:
    if "bits_per_byte" in result:
        return float(result["bits_per_byte"]["overall"])
    rows = [row for rows in result.get("tables", {}).values() for row in rows]
    cells = [cell for row in rows for cell in ([row["average"]] if row["coverage"] else row["cells"].values())]
    return next((cell["value"] for cell in cells if cell["value"] is not None), None)


@contextmanager
def _progress_bar(description: str) -> Iterator[tuple[ProgressCallback, Callable[[str], None]]]:
    """A bar on standard error while the body runs, and a function that prints a line above it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=plain_console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total), bar.console.print
