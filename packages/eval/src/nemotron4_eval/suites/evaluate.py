"""The tasks of an evaluation: what they need, what they came to, and under which settings.

Invariant: everything that a result depends on is in its `settings`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron4_common.staging import file_sha256
from nemotron4_data import Tokenizer
from nemotron4_eval.data.flores_tokenizer import find_flores_tokenizer, spbleu_signature, use_flores_tokenizer
from nemotron4_eval.data.locate import DataSource
from nemotron4_eval.suites.cells import table_rows
from nemotron4_eval.suites.config import SuiteConfig
from nemotron4_eval.suites.needs import Needs, ReadyTask, set_up_libraries
from nemotron4_eval.suites.results import Evaluation
from nemotron4_eval.suites.selection import select_tasks
from nemotron4_eval.suites.suite import Benchmark, load_benchmark

if TYPE_CHECKING:
    from nemotron4_eval.harness.model import EngineLM
    from nemotron4_infer.likelihood import Progress

LIBRARIES = ("nemotron4-eval", "lm_eval", "datasets", "torch", "sacrebleu")
"""Whose versions are part of the settings."""


@dataclass(frozen=True, kw_only=True)
class PreparedSuite:
    """A suite of which it is known what can run."""

    suite: SuiteConfig
    benchmarks: Sequence[Benchmark]
    ready: Sequence[ReadyTask]
    needs: Needs

    def run(
        self, lm: "EngineLM", directory: Path | None, model: Mapping[str, Any], say: Callable[[str], None]
    ) -> Evaluation:
        """Run what can run; with None as `directory`, nothing is kept beside the result. `model` identifies it."""
        from nemotron4_eval.suites.run import Records, run_ready, task_result

        suite, settings = self.suite, self._settings()
        records = Records(directory=directory, identity={"model": model, "settings": settings})
        runs = run_ready(self.ready, lm, self.needs, records, limit=suite.limit, seed=suite.few_shot_seed, say=say)
        tasks = {
            name: task_result(ready, runs[name], has_samples=directory is not None)
            for ready in self.ready
            if (name := ready.task.spec.name) in runs
        }
        return {
            "tasks": tasks,
            "tables": table_rows(self.benchmarks, runs, self.needs.missing),
            "missing": self.needs.missing,
            "settings": settings,
        }

    def _settings(self) -> dict[str, Any]:
        suite, sandbox = self.suite, None
        if any(ready.task.spec.toolchain for ready in self.ready) and not isinstance(self.needs.sandbox, str):
            sandbox = {"level": self.needs.sandbox.level.value, "cannot_hold": list(self.needs.sandbox.cannot_hold)}
        tokenizer = self.needs.flores_tokenizer
        return {
            "document_start": suite.document_start.value,
            "few_shot_seed": suite.few_shot_seed,
            "limit": suite.limit,
            "samples": suite.samples,
            "seed": suite.seed,
            "sandbox": sandbox,
            "flores_tokenizer_sha256": file_sha256(tokenizer) if tokenizer else None,
            "spbleu_signature": spbleu_signature(tokenizer) if tokenizer else None,
            "context_tokens": self.needs.context_tokens,
            "versions": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
        }


def prepare_suite(
    suite: SuiteConfig,
    names: Sequence[str],
    *,
    context_tokens: int,
    tokenizer: Tokenizer,
    progress: "Progress",
    may_be_cut: Sequence[str] = (),
) -> PreparedSuite:
    """Look for what the suite's tasks need; `names` are those of `suite.tasks`.

    Tasks of `may_be_cut` run however little of their prompts fits in the context.
    """
    directory = Path(suite.data) if suite.data is not None else None
    set_up_libraries(hub=suite.hub, directory=directory)
    benchmarks = [load_benchmark(name) for name in suite.benchmarks]
    selected = select_tasks(benchmarks, names)
    flores_tokenizer = None
    if any(task.spec.needs_flores_tokenizer for task in selected):
        given = Path(suite.flores_tokenizer) if suite.flores_tokenizer else None
        flores_tokenizer = find_flores_tokenizer(given, directory, download=suite.hub)
        use_flores_tokenizer(flores_tokenizer)
    needs = Needs(
        source=DataSource(directory=directory, fetch=suite.fetch, hub=suite.hub),
        tokenizer=tokenizer,
        context_tokens=context_tokens,
        flores_tokenizer=flores_tokenizer,
        weakest=suite.sandbox.weakest,
        samples=suite.samples,
        may_be_cut=may_be_cut,
    )
    ready = needs.check(selected, progress)
    return PreparedSuite(suite=suite, benchmarks=benchmarks, ready=ready, needs=needs)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
