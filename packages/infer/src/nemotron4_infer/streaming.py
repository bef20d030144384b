"""`nemotron4 generate`: stream a continuation to standard output, then one line of statistics to standard error.

Invariant: standard output contains only the prompt and its continuation, so it can be piped. Torch is imported only
when the command runs, after the environment is set.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nemotron4_common.rules import require
from nemotron4_infer.generate_job import GenerateJob
from nemotron4_infer.sampling import SamplingConfig

if TYPE_CHECKING:
    from nemotron4_infer.engine.core import Engine
    from nemotron4_infer.engine.request import Delta, Request


def run_generate(job: GenerateJob) -> None:
    """Load the model and generate; Ctrl-C ends the line and prints the statistics of what was generated."""
    # OpenMP's threads otherwise spin between steps, and steps take many times as long where other processes run too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if job.prompts_file is not None:
        from nemotron4_infer.prompts_file import run_prompts_file

        run_prompts_file(job)
    elif job.interactive:
        from nemotron4_infer.interactive import run_session

        run_session(job)
    else:
        _run_prompt(job, job.text())


def open_engine(job: GenerateJob) -> Engine:
    """The engine of a job, which must be closed. ValueError, one line, if there is no model or it does not fit."""
    from nemotron4_infer.engine.build import build_engine

    return build_engine(job.model_dir, job.dtype, job.engine)


def fitting_request(engine: Engine, prompt_ids: Sequence[int], sampling: SamplingConfig) -> Request:
    """A request with no more new tokens than the model's context has room for. ValueError if it has room for none."""
    from nemotron4_infer.engine.request import Request

    longest, count = engine.max_sequence_length, len(prompt_ids)
    way_out = "shorten the prompt or use a model with a longer context"
    rule = f"must be shorter than the model's context of {longest} tokens; {way_out}"
    require(count < longest, "prompt", f"{count} tokens", rule)
    sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, longest - count))
    request = Request(prompt_ids=tuple(prompt_ids), sampling=sampling)
    engine.check(request)
    return request


def step(engine: Engine) -> list[Delta]:
    """One step of the engine. RuntimeError if a fault of ours ended a request."""
    deltas = engine.step()
    if error := next((delta.error for delta in deltas if delta.error is not None), None):
        raise RuntimeError(f"the engine ended a request: {error}")
    return deltas


@dataclass
class Answer:
    """An answer that is written to standard output as it comes, and its statistics."""

    text: str = ""
    """The text so far."""
    arrivals_seconds: list[float] = field(default_factory=list)
    """The tokens' times since generation started, without a token that ended the text."""
    reason: str = "interrupted"
    """Why it ended."""

    def run(self, engine: Engine, request: Request, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Generate the answer, and end it early if `is_stopped()` between two steps."""
        started, number = time.perf_counter(), engine.add(request)
        ending = {engine.tokenizer.eos_id, *request.sampling.stop_token_ids}
        while engine.has_work:
            for delta in step(engine):
                count = sum(token.id not in ending for token in delta.tokens)
                self.arrivals_seconds += [time.perf_counter() - started] * count
                self.text += delta.text
                write(delta.text)
                if delta.finish is not None:
                    self.reason = _reason(engine, request, delta)
            if is_stopped():
                engine.cancel(number)

    def statistics(self) -> str:
        """One line on the answer."""
        return statistics_line(self.arrivals_seconds, self.reason)


def _run_prompt(job: GenerateJob, prompt: str) -> None:
    answer = Answer()
    with closing(open_engine(job)) as engine:
        # In training every document follows an end-of-sequence token, so the prompt does too.
        prompt_ids = [engine.tokenizer.eos_id, *engine.tokenizer.encode(prompt)]
        request = fitting_request(engine, prompt_ids, job.sampling)
        write(prompt)
        try:
            answer.run(engine, request)
        except KeyboardInterrupt:
            answer.reason = "interrupted"
    write("\n")
    print(answer.statistics(), file=sys.stderr)


def _reason(engine: Engine, request: Request, last: Delta) -> str:
    from nemotron4_infer.engine.request import FinishReason

    sampling = request.sampling
    if last.finish is FinishReason.stop:
        by_stop = bool(sampling.stop) and last.tokens[-1].id not in (engine.tokenizer.eos_id, *sampling.stop_token_ids)
        return "a stop string was reached" if by_stop else "the model ended the text"
    is_full = len(request.prompt_ids) + sampling.max_new_tokens == engine.max_sequence_length
    return "the model's context is full" if is_full else "sampling.max_new_tokens reached"


def statistics_line(arrivals_seconds: list[float], reason: str) -> str:
    """Statistics of one generation; `arrivals_seconds` are the tokens' times since generation started."""
    count = len(arrivals_seconds)
    if count == 0:
        return f"0 tokens ({reason})"
    text = f"{count} token{'s' if count > 1 else ''}, first after {arrivals_seconds[0]:.2f} s"
    if count > 1 and arrivals_seconds[-1] > arrivals_seconds[0]:
        # The first token's time includes processing the prompt, so it does not count towards the rate.
        text += f", then {(count - 1) / (arrivals_seconds[-1] - arrivals_seconds[0]):.1f} tokens/s"
    return f"{text} ({reason})"


def write(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
