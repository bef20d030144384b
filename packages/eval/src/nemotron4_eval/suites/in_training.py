"""Tasks that are measured again and again while a model trains, through the one call that any sharded model has.

Multiple choice is measured as the harness does. No text is generated, since a model that is sharded for training has no
cache of keys and values: of a task that generates there are the bits per byte of its right answers alone.
Invariant: prompts are made and tokenised once, so that every measurement, also after a restart, asks the same; and what
is computed is a list of windows of tokens, which ranks can share out.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from numpy.typing import NDArray

from nemotron4_data import Tokenizer
from nemotron4_eval.data.locate import DataSource
from nemotron4_eval.harness.gold import METRIC, bits_of_requests, gold_requests
from nemotron4_eval.harness.run import prepare, shuffle_seeds
from nemotron4_eval.suites.needs import Needs
from nemotron4_eval.suites.selection import SuiteTask, select_tasks
from nemotron4_eval.suites.suite import load_benchmark
from nemotron4_infer.windows import Window

NllOfWindows = Callable[[Sequence[NDArray[np.int32]], Sequence[Window]], NDArray[np.float64]]
"""(token ids of texts, windows) -> for each text, nats of the tokens that its window scores; `window_nll` is one."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one task came to."""

    benchmark: str
    """Its benchmark; for a task of none, its own name."""
    items: int
    metrics: dict[str, tuple[float, float | None]]
    """Value and standard error by metric; `gold_bits_per_byte` is one."""
    chance: float | None
    """The accuracy of guessing; None unless it is multiple choice."""


class TrainingTasks:
    """The requests of tasks, made once."""

    def __init__(
        self,
        tasks: Mapping[str, ConfigurableTask],
        benchmarks: Mapping[str, str],
        tokenizer: Tokenizer,
        *,
        context_tokens: int,
        limit: int | None,
        seed: int = 1234,
    ) -> None:
        """`benchmarks` names that of each task; of each, the first `limit` items are asked; `seed` draws examples."""
        self.tasks, self._benchmarks = tasks, benchmarks
        for task in tasks.values():
            prepare(task, seed)
            task.build_all_requests(limit=limit)
        self._gold = {name: gold_requests(task) for name, task in tasks.items()}
        asked = {name: task.instances if is_choice(task) else self._gold[name] for name, task in tasks.items()}
        self._requests = [request for each in asked.values() for request in each]
        encoder = _Encoder(tokenizer)
        encoder.loglikelihood(self._requests, disable_tqdm=True)
        self._texts, self._windows, self._fits = encoder.texts, [], np.ones(len(self._requests), dtype=np.bool_)
        for index, (text, scored_from) in enumerate(zip(encoder.texts, encoder.scored_from, strict=True)):
            window = Window(index, max(0, len(text) - context_tokens), scored_from, len(text))
            self._fits[index] = window.begin <= window.scored_from < window.end
            if self._fits[index]:
                self._windows.append(window)
        lengths = iter(len(text) for text in encoder.texts)
        of_task = {name: [next(lengths) for _ in each] for name, each in asked.items()}
        self.typical_tokens = {name: int(median(each)) for name, each in of_task.items() if each}
        """Tokens of a task's median request."""

    @property
    def only_gold(self) -> list[str]:
        """Tasks that are not multiple choice, so that only the bits per byte of their right answers are measured."""
        return [name for name, task in self.tasks.items() if not is_choice(task) and self._gold[name]]

    @property
    def not_measured(self) -> list[str]:
        """Tasks of which there is nothing to measure: they generate, and have no right answers."""
        return [name for name, task in self.tasks.items() if not is_choice(task) and not self._gold[name]]

    def measure(self, nll_of_windows: NllOfWindows) -> dict[str, Measured]:
        """Results by task. An answer without a token of its own, or longer than the context, is infinitely unlikely."""
        nll = np.where(self._fits, nll_of_windows(self._texts, self._windows), math.inf)
        for request, nats in zip(self._requests, nll, strict=True):
            request.resps = [(-float(nats), False)]
        return {name: self._measured(name, task) for name, task in self.tasks.items()}

    def _measured(self, name: str, task: ConfigurableTask) -> Measured:
        found = _choices_made(task) if is_choice(task) else {}
        if (gold := bits_of_requests(self._gold[name])) is not None:
            found[METRIC] = gold.bits_per_byte, gold.stderr
        docs = {request.doc_id: request.doc for request in task.instances}
        chance = fmean(1 / len(task.doc_to_choice(doc)) for doc in docs.values()) if is_choice(task) else None
        return Measured(benchmark=self._benchmarks[name], items=len(docs), metrics=found, chance=chance)


def is_choice(task: ConfigurableTask) -> bool:
    """Whether it is multiple choice, which is measured in full."""
    return bool(task.OUTPUT_TYPE == "multiple_choice")


def _choices_made(task: ConfigurableTask) -> dict[str, tuple[float, float | None]]:
    """The harness's metrics of a multiple-choice task whose requests were answered."""
    task.apply_filters()
    by_item: dict[int, list[Instance]] = defaultdict(list)
    for request in task.instances:
        by_item[request.doc_id].append(request)
    values: dict[str, list[Any]] = defaultdict(list)
    for requests in by_item.values():
        requests.sort(key=lambda request: request.idx)
        for filtered in requests[0].filtered_resps:
            results = [request.filtered_resps[filtered] for request in requests]
            for metric, value in task.process_results(requests[0].doc, results).items():
                values[metric if filtered == "none" else f"{metric},{filtered}"].append(value)
    found = {}
    for name, each in values.items():
        aggregate = task.aggregation()[name.partition(",")[0]]
        if name.partition(",")[0] == "exact_match":
            continue  # asks whether the right option is what the model would write, which likelihoods do not tell
        found[name] = float(aggregate(each)), float(mean_stderr(each)) if aggregate is mean and len(each) > 1 else None
    return found


class _Encoder(TemplateLM):  # type: ignore[misc]  # lm-eval has no annotations
    """Keeps the tokens of requests: the harness's own split of context and continuation."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self.texts: list[NDArray[np.int32]] = []
        self.scored_from: list[int] = []

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self._tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        for _, context, continuation in requests:
            # Windows begin with the end-of-sequence token, which the harness puts in front of an empty context.
            context = [] if context == [self.eot_token_id] else context
            self.texts.append(np.array([*context, *continuation], dtype=np.int32))
            self.scored_from.append(len(context))
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise AssertionError("such requests are not made")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise AssertionError("such requests are not made")


def open_tasks(
    benchmarks: Sequence[str],
    tasks: Sequence[str],
    source: DataSource,
    tokenizer: Tokenizer,
    *,
    context_tokens: int,
    limit: int | None,
) -> TrainingTasks:
    """The tasks of benchmarks and those named one by one, with all they need.

    ValueError, one line with a key of `suite`, for the first that is not known, lacks data or does not fit.
    """
    selected = select_tasks([load_benchmark(name) for name in benchmarks], tasks)
    # Nothing is generated, so no program is run, no text compared, and no room needed for an answer.
    plain = [replace(each, spec=replace(each.spec, toolchain=None, needs_flores_tokenizer=False)) for each in selected]
    needs = Needs(source=source, tokenizer=tokenizer, context_tokens=2**31, flores_tokenizer=None, weakest=False)
    names = {task.spec.name: task.benchmark.name if task.benchmark else task.spec.name for task in selected}
    with shuffle_seeds():
        ready = needs.check(plain)
        _check_whole(needs)
        configs = [dict(each.config) for each in ready]
        loaded = TaskManager(include_defaults=False).load(configs)["tasks"]
        found = TrainingTasks(loaded, names, tokenizer, context_tokens=context_tokens, limit=limit)
    for task in selected:
        if loaded[task.spec.name].OUTPUT_TYPE == "loglikelihood_rolling":
            raise ValueError(
                f"{_key(task)}: {task.spec.name} scores whole texts, which is not done during training; leave it out,"
                " and measure it with `nemotron4 eval`"
            )
        if (needed := found.typical_tokens.get(task.spec.name, 0)) > context_tokens:
            raise ValueError(
                f"{_key(task)}: {task.spec.name} needs {needed:,} tokens for a typical item, and the model has"
                f" {context_tokens:,}; leave it out, or train with a larger model.max_sequence_length"
            )
    return found


def _check_whole(needs: Needs) -> None:
    if needs.missing:
        message, others = needs.missing[0]["message"], len(needs.missing) - 1
        place = "" if message.startswith("suite.") else f"suite.data ({needs.source.directory or 'null'}): "
        more = f" ({others} more tasks lack something)" if others else ""
        raise ValueError(f"{place}{message}{more}")


def _key(task: SuiteTask) -> str:
    return f"suite.benchmarks ({task.benchmark.name})" if task.benchmark else f"suite.tasks ({Path(task.spec.yaml)})"
