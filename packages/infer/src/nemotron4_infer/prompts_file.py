"""`nemotron4 generate prompts_file=`: continue many prompts together and write the results as JSON lines.

Invariants: OUT is complete when it exists, with a line for each prompt, in their order. Until then finished lines are
in OUT.partial in the order in which they came, below a line with the settings; the same command continues there, and
a prompt is neither lost nor done twice. Each text depends on its prompt, its index and the settings alone.
"""

import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nemotron4_common.rules import require
from nemotron4_common.signals import HeldSignals
from nemotron4_common.staging import partial_path, write_file
from nemotron4_common.system_errors import check_can_write, naming_place
from nemotron4_common.terminal import plain_console
from nemotron4_infer.engine.core import Engine, QueueFullError
from nemotron4_infer.generate_job import GenerateJob, not_unicode
from nemotron4_infer.model_directory import check_model_directory
from nemotron4_infer.streaming import fitting_request, open_engine, step
from nemotron4_infer.weights.load import weights_digest


@dataclass(frozen=True)
class Prompt:
    """One line of a file of prompts."""

    line: int
    """Its number, from 1."""
    text: str
    """Text to continue."""
    id: str | int | None
    """The line's own name for it."""


def run_prompts_file(job: GenerateJob) -> None:
    """Generate what is missing, and write the results once all are there. Ctrl-C keeps what is finished."""
    assert job.prompts_file is not None
    assert job.out is not None
    path, out = Path(job.prompts_file), Path(job.out)
    check_can_write(out, "out")
    require(not out.exists(), "out", out, "exists; remove it if it is not wanted, or give another out")
    check_model_directory(Path(job.model_dir))
    content = path.read_bytes()
    prompts = read_prompts(path, content)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Journal.open(out, _settings(job, content)) as journal:
        missing = [index for index in range(len(prompts)) if index not in journal.lines]
        done, speed = len(prompts) - len(missing), "none was missing"
        if missing:
            with closing(open_engine(job)) as engine:
                speed = _generate(job, engine, prompts, missing, journal)
        journal.finish()
    resumed = f" ({done:,} done before)" if done else ""
    plain_console().print(f"{len(prompts):,} prompts{resumed}, {speed}; written to {out}", soft_wrap=True)


def read_prompts(path: Path, content: bytes) -> list[Prompt]:
    """The prompts of a file with this content. ValueError, one line with file and line number, for a bad line."""
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    require(bool(lines), "prompts_file", path, "is empty; write a prompt into each line")
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.removesuffix(b"\r").decode()
            prompt = _of_json(number, text) if path.suffix == ".jsonl" else Prompt(number, text, None)
            if not prompt.text:
                raise ValueError("the prompt is empty; remove the line, or write one")
            if not_unicode(prompt.text) is not None or not_unicode(str(prompt.id)) is not None:
                raise ValueError("has half of a character (a lone surrogate); correct it")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{number}: not UTF-8 at byte {error.start} of the line; convert the file"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        prompts.append(prompt)
    return prompts


def _of_json(number: int, line: str) -> Prompt:
    way_out = 'write {"prompt": "..."}'
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({str(error).splitlines()[0]}); {way_out}") from error
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise ValueError(f"not an object with the text `prompt`; {way_out}")
    name = value.get("id")
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise ValueError("id must be text or a whole number; correct it, or leave it out")
    return Prompt(number, value["prompt"], name)


def _generate(job: GenerateJob, engine: Engine, prompts: list[Prompt], missing: list[int], journal: "Journal") -> str:
    """Generate for the prompts of these indices; returns how many tokens that were, and how fast."""
    tokenizer = engine.tokenizer
    ids, sizes = tokenizer.encode_batch([prompts[index].text for index in missing])
    ends = sizes.cumsum()

    def request(at: int) -> Any:
        prompt_ids = [tokenizer.eos_id, *ids[ends[at] - sizes[at] : ends[at]].tolist()]
        # Of its own seed, so that a prompt which occurs again is continued differently.
        sampling = replace(job.sampling, seed=(job.sampling.seed + missing[at]) % 2**63)
        try:
            return fitting_request(engine, prompt_ids, sampling)
        except ValueError as error:
            raise ValueError(f"{job.prompts_file}:{prompts[missing[at]].line}: {error}") from error

    request(int(sizes.argmax()))  # if the longest fits, so do all
    running: dict[int, _Result] = {}
    waiting = iter(range(len(missing)))
    at = next(waiting, None)
    with _Progress(len(prompts), len(prompts) - len(missing)) as progress:
        while at is not None or engine.has_work:
            while at is not None:
                try:
                    running[engine.add(request(at))] = _Result(missing[at])
                except QueueFullError:
                    break
                at = next(waiting, None)
            for delta in step(engine):
                result = running[delta.request]
                result.text += delta.text
                result.tokens += len(delta.tokens)
                if delta.finish is not None:
                    del running[delta.request]
                    journal.add(result.line(prompts[result.index].id, delta.finish.value))
                progress.advance(len(delta.tokens), delta.finish is not None)
    return progress.summary()


@dataclass
class _Result:
    index: int
    text: str = ""
    tokens: int = 0

    def line(self, name: str | int | None, finish_reason: str) -> dict[str, Any]:
        named = {} if name is None else {"id": name}
        return {"index": self.index, **named, "text": self.text, "tokens": self.tokens, "finish_reason": finish_reason}


class Journal:
    """OUT.partial: the settings, then a line for each result, in the order in which they came."""

    def __init__(self, out: Path, file: BinaryIO, lines: dict[int, bytes]) -> None:
        self._out, self._file = out, file
        self.lines = lines
        """The results so far by index, as lines."""

    @classmethod
    @contextmanager
    def open(cls, out: Path, settings: dict[str, Any]) -> "Iterator[Journal]":
        """Begin or continue the journal of `out`. ValueError if it is in use, or was begun with other settings."""
        path = partial_path(out)
        with path.open("a+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"out ({out}): another process writes it; wait for it, or give another out") from error
            file.seek(0)
            content = file.read()
            if not content:
                file.write(_json_line(settings))
            head, _, rest = content.partition(b"\n")
            _check_same(out, _json_object(head) if content else settings, settings)
            lines: dict[int, bytes] = {}
            for line in rest.splitlines(keepends=True):
                index = _json_object(line).get("index")
                if not line.endswith(b"\n") or not isinstance(index, int):
                    break  # a kill cut it, or a power cut lost what follows
                lines[index] = line
            if content:
                file.truncate(len(head) + 1 + sum(map(len, lines.values())))
            yield cls(out, file, lines)

    def add(self, result: dict[str, Any]) -> None:
        """Write a result down."""
        line = self.lines[result["index"]] = _json_line(result)
        with naming_place(partial_path(self._out), "make room, then run the same command again"):
            while line:
                line = line[self._file.write(line) :]

    def finish(self) -> None:
        """Write OUT, and remove the journal."""
        with HeldSignals():
            write_file(self._out, b"".join(self.lines[index] for index in sorted(self.lines)))
            partial_path(self._out).unlink()


def _settings(job: GenerateJob, content: bytes) -> dict[str, Any]:
    """What the results depend on, by dotted key."""
    sampling = {f"sampling.{name}": value for name, value in json.loads(json.dumps(asdict(job.sampling))).items()}
    return {
        "model_dir": weights_digest(job.model_dir),
        "prompts_file": hashlib.sha256(content).hexdigest(),
        "dtype": job.dtype and job.dtype.value,
        "engine.quantization": job.engine.quantization and job.engine.quantization.value,
        **sampling,
    }


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    partial = partial_path(out)
    if before.keys() != now.keys():
        raise ValueError(f"out ({out}): {partial} was not begun by this version of the program; move it elsewhere")
    for key, value in now.items():
        if before[key] != value:
            is_digest = key in ("model_dir", "prompts_file")
            change = (
                "its content has changed" if is_digest else f"was {json.dumps(before[key])}, is {json.dumps(value)}"
            )
            raise ValueError(f"{key}: {change} since {partial} was begun; restore it, or give another out")


def _json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _json_object(line: bytes) -> dict[str, Any]:
    """The object in a line; empty if there is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


class _Progress:
    """A bar on standard error while its context is open, and the speed."""

    def __init__(self, total: int, done: int) -> None:
        columns = (
            *(TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")),
            *(TimeElapsedColumn(), TimeRemainingColumn()),
        )
        self._bar = Progress(*columns, console=plain_console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=total, completed=done, rate="")
        self._num_tokens, self._started = 0, time.perf_counter()

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, new_tokens: int, is_finished: bool) -> None:
        self._num_tokens += new_tokens
        self._bar.update(self._task, advance=int(is_finished), rate=f"{self._speed():,.0f} tokens/s")

    def summary(self) -> str:
        seconds = time.perf_counter() - self._started
        return f"{self._num_tokens:,} tokens in {seconds:.1f} s, {self._speed():,.1f} tokens/s"

    def _speed(self) -> float:
        return self._num_tokens / max(time.perf_counter() - self._started, 1e-9)
