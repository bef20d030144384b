"""`nemotron4 eval`: evaluates a model directory on a corpus's held-out text and on harness tasks.

Invariant: the model, gzip and xz are measured on the same bytes; the result file is written once, at the end.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nemotron4_common.extras import check_installed
from nemotron4_common.system_errors import check_can_write, naming_place
from nemotron4_common.terminal import plain_console
from nemotron4_data import Corpus
from nemotron4_eval.eval_job import EvalJob, SuiteConfig
from nemotron4_eval.heldout.bits_per_byte import score_heldout
from nemotron4_eval.heldout.compressors import compressor_table, gzip_bits_per_byte, xz_bits_per_byte
from nemotron4_eval.heldout.heldout_continuation import NUM_CHOICES, make_items, write_task
from nemotron4_eval.heldout.result import EvalResult, check_output, print_result, replaced_result, write_result
from nemotron4_eval.heldout.text import HeldoutText, read_heldout
from nemotron4_eval.provenance import IDENTITY_KEYS, read_provenance
from nemotron4_infer import LoadedModel, load_model_directory
from nemotron4_infer.likelihood import Progress as ProgressCallback

HELDOUT_CONTINUATION = "heldout_continuation"


def run_eval(job: EvalJob) -> float:
    """Measure, print a table and write the result file; returns bits per byte of all held-out text."""
    started = time.perf_counter()
    output, provenance = job.output_path, read_provenance(Path(job.model_dir))
    check_can_write(output, "output")
    check_output(output)
    _check_tasks(job.suite.tasks)
    corpus = Corpus.open(job.data.dir)
    loaded = load_model_directory(job.model_dir, job.dtype)
    _check_same_tokenizer(job, loaded, corpus)
    texts = read_heldout(corpus, job.suite.max_bytes_per_source)
    with _task_files(job.suite, texts) as tasks:
        result, overall = _measure(job, loaded, corpus, texts, tasks)
    result.update({key: provenance[key] for key in IDENTITY_KEYS if key in provenance})  # type: ignore[typeddict-item]  # keys vary
    result["seconds"] = round(time.perf_counter() - started, 1)
    console = plain_console()
    print_result(result, console)  # first, so that it is shown even if the disk is full
    if (replaced := replaced_result(result, output)) is not None:
        console.print(f"replaces the evaluation of {replaced} that was there; output=PATH keeps both")
    with naming_place(output, "make room, or give another output"):
        write_result(result, output)
    console.print(f"written to {output} after {result['seconds']} s")
    if job.output is None and "run_id" in provenance and output.parent == Path(job.model_dir):
        console.print(
            f"its run is no longer at {provenance['run_directory']}: for that run's report, copy the file to the run"
        )
    return overall


def _measure(
    job: EvalJob, loaded: LoadedModel, corpus: Corpus, texts: list[HeldoutText], tasks: list[str]
) -> tuple[EvalResult, float]:
    """The result, and bits per byte of all held-out text."""
    with _progress_bar("held-out tokens") as progress:
        measured = score_heldout(
            loaded.model,
            texts,
            loaded.tokenizer.eos_id,
            window=job.suite.window_tokens,
            stride=job.suite.stride_tokens,
            device=loaded.device,
            progress=progress,
        )
    result: EvalResult = {
        "bits_per_byte": {"overall": measured.overall, **measured.domains, "sources": measured.sources},
        "gzip_bits_per_byte": compressor_table(texts, gzip_bits_per_byte),
        "xz_bits_per_byte": compressor_table(texts, xz_bits_per_byte),
        "tokens": measured.num_tokens,
        "bytes": sum(measured.num_bytes.values()),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "tasks": _run_tasks(tasks, loaded, job.limit),
        "model": job.model_dir,
        "corpus": job.data.dir,
        "corpus_digest": corpus.digest,
        "suite": job.suite.name,
    }
    return result, measured.overall


def _check_tasks(tasks: list[str]) -> None:
    for task in tasks:
        if task != HELDOUT_CONTINUATION and not Path(task).is_file():
            raise ValueError(
                f"suite.tasks ({task}): is neither {HELDOUT_CONTINUATION} nor a file; give the path of an LM "
                "Evaluation Harness task YAML"
            )
    if tasks:
        need = f"suite.tasks ([{', '.join(tasks)}]): needs the LM Evaluation Harness"
        check_installed(need, ("lm_eval",), "nemotron4-eval[harness]")


def _check_same_tokenizer(job: EvalJob, loaded: LoadedModel, corpus: Corpus) -> None:
    if loaded.tokenizer.sha256 != corpus.tokenizer.sha256:
        raise ValueError(
            f"model_dir ({job.model_dir}): has a different tokenizer from data.dir ({job.data.dir}), so it cannot read "
            "its tokens; give the corpus the model was trained on, or one prepared with the same tokenizer"
        )


@contextmanager
def _task_files(suite: SuiteConfig, texts: list[HeldoutText]) -> Iterator[list[str]]:
    """Paths of the harness tasks, all of which load; generated questions exist only while the body runs."""
    with tempfile.TemporaryDirectory() as directory:
        paths = list(suite.tasks)
        if HELDOUT_CONTINUATION in paths:
            items = make_items(texts, num_items=suite.num_items, seed=suite.seed)
            paths[paths.index(HELDOUT_CONTINUATION)] = str(write_task(items, Path(directory)))
        if paths:
            # Hugging Face's libraries read these on import, so they are set first: evaluation never uses the network.
            os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
            from nemotron4_eval.harness.run import check_tasks

            check_tasks(paths)
        yield paths


def _run_tasks(paths: list[str], loaded: LoadedModel, limit: int | None) -> dict[str, dict[str, float | None]]:
    if not paths:
        return {}
    from nemotron4_eval.harness.run import run_harness

    with _progress_bar("harness requests") as progress:
        tasks = run_harness(loaded, paths, limit=limit, progress=progress)
    if HELDOUT_CONTINUATION in tasks:
        tasks[HELDOUT_CONTINUATION]["chance"] = 1 / NUM_CHOICES
    return tasks


@contextmanager
def _progress_bar(description: str) -> Iterator[ProgressCallback]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=plain_console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
