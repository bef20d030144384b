"""`nemotron4 generate`: stream a continuation to standard output, then one line of statistics to standard error.

Invariant: standard output contains only the prompt and its continuation, so it can be piped.
"""

import sys
import time
from collections.abc import Generator

from nemotron4_data import StreamDecoder
from nemotron4_infer.generate_job import GenerateJob
from nemotron4_infer.generation import StopReason, generate
from nemotron4_infer.model_directory import load_model_directory


def run_generate(job: GenerateJob) -> None:
    """Load the model and stream the text; Ctrl-C ends the line and prints the statistics of what was generated."""
    prompt = job.text()
    loaded = load_model_directory(job.model_dir, job.dtype)
    eos_id = loaded.tokenizer.eos_id
    # In training every document follows an end-of-sequence token, so the prompt does too.
    prompt_ids = [eos_id, *loaded.tokenizer.encode(prompt)]
    decoder = StreamDecoder(loaded.tokenizer)
    arrivals_seconds: list[float] = []
    stream = generate(loaded.model, prompt_ids, job.sampling, eos_id, loaded.tokenizer.vocab_size)
    _write(prompt)
    try:
        reason = _stream_text(stream, decoder, arrivals_seconds).value
    except KeyboardInterrupt:
        reason = "interrupted"
    _write(decoder.finish() + "\n")
    print(statistics_line(arrivals_seconds, reason), file=sys.stderr)


def _stream_text(
    stream: Generator[int, None, StopReason], decoder: StreamDecoder, arrivals_seconds: list[float]
) -> StopReason:
    started = time.perf_counter()
    while True:
        try:
            token = next(stream)
        except StopIteration as stop:
            reason: StopReason = stop.value
            return reason
        arrivals_seconds.append(time.perf_counter() - started)
        _write(decoder.push(token))


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


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
