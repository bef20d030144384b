"""Bits per byte of the right answers of a task: what moves in a small model long before its accuracy leaves chance.

The right answer is scored behind the task's own prompt. In multiple choice it is the request of the right option, which
is scored anyway; where the options differ in the context, as in Winogrande, the continuation that they share. Of a task
that generates it is the target, such as a reference translation or program, or what `metadata: {gold: ...}` of its YAML
makes of the item, where the target is not how an answer is written.

Invariant: a task's value is the bits of all its right answers over their UTF-8 bytes, delimiter included, as of
held-out text, so items weigh as much as they are long. Its standard error is that of a ratio of two sums.
Source: the ratio estimator, Cochran, Sampling Techniques, section 6.4.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask, Task

METRIC = "gold_bits_per_byte"


@dataclass(frozen=True, kw_only=True)
class GoldBits:
    """Of one task."""

    bits_per_byte: float
    stderr: float | None
    """None for a single item."""
    items: int
    """Items that have a right answer whose likelihood is finite."""


def gold_bits_per_byte(lm: LM, tasks: Mapping[str, Task]) -> dict[str, GoldBits]:
    """By name, for tasks whose requests were built; those without any right answer are left out.

    Requests that have been answered are not asked again; the others, of all tasks, go to `lm` together.
    """
    requests = {name: gold_requests(task) for name, task in tasks.items()}
    asked = [request for each in requests.values() for request in each if not request.resps]
    for request, response in zip(asked, lm.loglikelihood(asked) if asked else [], strict=True):
        request.resps.append(response)
    found = {name: bits_of_requests(each) for name, each in requests.items()}
    return {name: bits for name, bits in found.items() if bits is not None}


def gold_requests(task: Task) -> list[Instance]:
    """The request for the right answer of each item that has one: the task's own, or a new one.

    None for a task that is a Python class, not a YAML: it does not say what is right.
    """
    if not isinstance(task, ConfigurableTask):
        return []
    options: dict[int, list[Instance]] = {}
    for instance in task.instances:
        options.setdefault(instance.doc_id, []).append(instance)
    found = [_gold_request(task, sorted(each, key=lambda instance: instance.idx)) for each in options.values()]
    return [request for request in found if request is not None]


def bits_of_requests(requests: Sequence[Instance]) -> GoldBits | None:
    """Bits per byte of requests that were answered; None if none has a finite likelihood."""
    pairs = [(-float(request.resps[0][0]) / math.log(2), _num_bytes(request)) for request in requests]
    pairs = [(bits, size) for bits, size in pairs if math.isfinite(bits)]
    if not pairs:
        return None
    count, num_bytes = len(pairs), sum(size for _, size in pairs)
    ratio = math.fsum(bits for bits, _ in pairs) / num_bytes
    spread = math.fsum((bits - ratio * size) ** 2 for bits, size in pairs)
    stderr = math.sqrt(spread * count / (count - 1)) / num_bytes if count > 1 else None
    return GoldBits(bits_per_byte=ratio, stderr=stderr, items=count)


def _gold_request(task: ConfigurableTask, instances: Sequence[Instance]) -> Instance | None:
    first = instances[0]
    if task.OUTPUT_TYPE == "multiple_choice":
        index = _right_option(task, first.doc)
        return instances[index] if index is not None and instances[index].args[1] else None
    if task.OUTPUT_TYPE == "loglikelihood":
        return first if first.args[1] else None
    if task.OUTPUT_TYPE != "generate_until":
        return None
    answer = _answer(task, first.doc)
    if not answer:
        return None
    return Instance(
        request_type="loglikelihood", doc=first.doc, arguments=(first.args[0], answer), idx=0, metadata=first.metadata
    )


def _right_option(task: ConfigurableTask, doc: dict[str, Any]) -> int | None:
    """Its index, the first of several; None if the item has none."""
    gold, choices = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc), task.doc_to_choice(doc)
    if isinstance(gold, list):
        gold = gold[0] if gold else None
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else None
    return gold if isinstance(gold, int) and 0 <= gold < len(choices) else None


def _answer(task: ConfigurableTask, doc: dict[str, Any]) -> str:
    """The continuation of the prompt that is right, empty if the item has none."""
    if gold := (task.config.metadata or {}).get("gold"):
        answer: str = task.resolve_field(doc, gold)
        return answer
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        target = target[0] if target else ""
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return f"{task.config.target_delimiter}{target}" if str(target) else ""


def _num_bytes(request: Instance) -> int:
    """Of the text that is scored: the harness moves white space at the end of a prompt to the continuation."""
    context, continuation = request.args
    return len((context[len(context.rstrip()) :] + continuation).encode())
