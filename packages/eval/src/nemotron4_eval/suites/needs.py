"""What the tasks of a suite need that is not here: data, context, toolchains, a tokenizer; known before any runs.

Invariant: a task is either ready, or in the list of what is missing with its reason and the command that brings it.
"""

import logging
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron4_data import Tokenizer
from nemotron4_eval.data.flores_tokenizer import FILE
from nemotron4_eval.data.locate import DATA_VARIABLE, DataSource, MissingDataError, bringing, load
from nemotron4_eval.suites.results import Missing
from nemotron4_eval.suites.selection import SuiteTask

if TYPE_CHECKING:
    from nemotron4_eval.code.program import Sandbox

DEFAULT_GENERATED_TOKENS = 256
"""What a task without `max_gen_toks` generates."""
FAULT = "fault"
"""Kind of what is missing because a task stopped while it ran; all else is known before."""
PROBED_ITEMS = 16
"""Items of a task whose length is looked at before it runs."""


@dataclass(frozen=True, kw_only=True)
class ReadyTask:
    """A task that can run."""

    task: SuiteTask
    config: dict[str, Any]
    """The harness's configuration, which gives the items that were found."""
    dataset_digest: str
    """SHA-256 of the items; empty for a YAML that loads its own."""
    shots: int


@dataclass(kw_only=True)
class Needs:
    """Looks for what tasks need, with one list of what is missing."""

    source: DataSource
    tokenizer: Tokenizer
    context_tokens: int
    """Of the model."""
    flores_tokenizer: Path | None
    """The SentencePiece model of spBLEU, where one was found."""
    weakest: bool
    """`suite.sandbox.weakest`."""
    samples: int = 1
    """Programs sampled for a problem."""
    may_be_cut: Sequence[str] = ()
    """Tasks that run however little of their prompts fits in the context."""
    missing: list[Missing] = field(default_factory=list)

    def check(self, tasks: Sequence[SuiteTask], progress: Callable[[int, int], None] | None = None) -> list[ReadyTask]:
        """The tasks that can run; what the others lack is added to `missing`.

        ValueError, one line, for a task YAML of the user that does not load.
        """
        ready = []
        for number, task in enumerate(tasks):
            if (found := self._check(task)) is not None:
                ready.append(found)
            if progress is not None:
                progress(number + 1, len(tasks))
        return ready

    def add(self, task: SuiteTask, kind: str, message: str, command: str = "") -> None:
        """Note what a task lacks."""
        self.missing.append(
            {
                "task": task.spec.name,
                "tables": task.tables,
                "kind": kind,
                "message": " ".join(message.split()),
                "command": command,
            }
        )

    @cached_property
    def sandbox(self) -> "Sandbox | str":
        """The sandbox for programs, made once; or why there is none."""
        from nemotron4_eval.code.sandbox import make_sandbox, use_sandbox

        try:
            sandbox = make_sandbox(weakest=self.weakest)
        except ValueError as error:
            return str(error)
        use_sandbox(sandbox)
        return sandbox

    def _check(self, task: SuiteTask) -> ReadyTask | None:
        if task.spec.toolchain is not None and not self._can_run_programs(task, task.spec.toolchain):
            return None
        if task.spec.needs_flores_tokenizer and self.flores_tokenizer is None:
            message = (
                f"spBLEU needs the SentencePiece model of FLORES-101, {FILE}; chrF++ and BLEU are given without it"
            )
            self.add(task, "tokenizer", message, "suite.flores_tokenizer=PATH")
        ready = self._with_data(task)
        if ready is None or not self._fits(ready):
            return None
        return ready

    def _can_run_programs(self, task: SuiteTask, language: str) -> bool:
        if isinstance(self.sandbox, str):
            self.add(task, "sandbox", self.sandbox, "suite.sandbox.weakest=true")
            return False
        from nemotron4_eval.code.toolchains import MissingToolchainError
        from nemotron4_eval.code.verdict import tried_toolchain

        try:
            tried_toolchain(language, self.sandbox)
        except MissingToolchainError as error:
            self.add(task, "toolchain", str(error), error.command)
            return False
        return True

    def _with_data(self, task: SuiteTask) -> ReadyTask | None:
        digest = ""
        try:
            config = task.config()
            if task.spec.dataset:
                items = load(task.spec.dataset, self.source)
                digest = getattr(items, "digest", "")
                for key in ("dataset_path", "dataset_name", "dataset_kwargs"):
                    config.pop(key, None)
                config["custom_dataset"] = lambda **_: items
                if (process := config.get("process_docs")) is not None:
                    config["process_docs"] = cache(process)  # the harness asks for the same items four times
        except MissingDataError as error:
            self.add(task, "data", str(error), error.command)
            return None
        except Exception as error:  # a damaged file, or a fault in a task's functions: this task's, not the suite's
            self._refuse(task, error)
            return None
        if self.samples > 1 and task.spec.toolchain is not None:
            config = sampled(config, self.samples)
        return ReadyTask(task=task, config=config, dataset_digest=digest, shots=int(config.get("num_fewshot") or 0))

    def _fits(self, ready: ReadyTask) -> bool:
        """Whether a typical item fits in the model's context; a longer one loses its beginning when it is run."""
        try:
            needed = typical_tokens(ready.config, self.tokenizer)
        except Exception as error:  # from the YAML, the harness, or the library that reads the data
            self._refuse(ready.task, error)
            return False
        if needed <= self.context_tokens or ready.task.spec.name in self.may_be_cut:
            return True
        message = f"needs {needed:,} tokens for a typical item and its answer, the model has {self.context_tokens:,}"
        self.add(ready.task, "context", message)
        self.missing[-1]["tokens"] = needed
        return False

    def _refuse(self, task: SuiteTask, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        if task.benchmark is not None:
            dataset, directory = task.spec.dataset, self.source.directory
            if not reason.startswith("suite."):
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                place = f"suite.data ({directory or 'null'})"
                reason = f"{place}: items of {dataset} do not suit its task ({kind}{reason}); give the published files"
            self.add(task, "data", reason, bringing(dataset, directory))
        elif _is_offline_fault(task, error) and not self.source.hub:
            message = f"its items are not in the cache of the Hugging Face hub ({reason})"
            self.add(task, "data", message, "suite.hub=true")
        else:
            message = f"suite.tasks ({task.path}): the harness cannot load it ({reason}); correct that file"
            raise ValueError(message) from error


def _is_offline_fault(task: SuiteTask, error: BaseException | None) -> bool:
    """Whether the items are on the hub, which was not to be asked."""
    while error is not None:
        if isinstance(error, ConnectionError) or "Offline" in type(error).__name__ or "offline" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def sampled(config: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """A task's configuration with several sampled answers an item, at MultiPL-E's temperature and top-p."""
    sampling = {"do_sample": True, "temperature": 0.2, "top_p": 0.95}
    return {**config, "repeats": samples, "generation_kwargs": {**(config.get("generation_kwargs") or {}), **sampling}}


def set_up_libraries(*, hub: bool, directory: Path | None) -> None:
    """Before the harness is imported: whether it may use the network, and where our YAMLs find the items.

    Its progress bars and warnings, which would stand between the lines of ours, are turned off.
    """
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    if not hub:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    if directory is not None:
        os.environ[DATA_VARIABLE] = str(directory)
    import lm_eval.api.task

    lm_eval.api.task.tqdm = lambda items, **_: items
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def typical_tokens(config: Mapping[str, Any], tokenizer: Tokenizer) -> int:
    """Tokens of the median item of a task, its prompt and what it may generate, over its first items."""
    from lm_eval.tasks import TaskManager

    # The harness changes what it is given.
    (task,) = TaskManager(include_defaults=False).load([dict(config)])["tasks"].values()
    task.set_fewshot_seed(seed=0)
    task.build_all_requests(limit=PROBED_ITEMS)
    lengths: dict[Any, int] = defaultdict(int)
    for request in task.instances:
        length = _tokens(request, tokenizer)
        lengths[request.doc_id] = max(lengths[request.doc_id], length)
    return int(statistics.median(lengths.values()))


def _tokens(request: Any, tokenizer: Tokenizer) -> int:
    """Positions that a request takes in the model."""
    if request.request_type == "generate_until":
        context, settings = request.args
        return len(tokenizer.encode(context)) + int(settings.get("max_gen_toks", DEFAULT_GENERATED_TOKENS))
    if request.request_type == "loglikelihood_rolling":
        return 1  # scored in windows, whatever its length
    return len(tokenizer.encode("".join(request.args)))
