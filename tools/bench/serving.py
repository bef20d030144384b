"""What clients of `nemotron4 serve` get, beside transformers' `generate` for one prompt after another.

A server for each format answers on this machine, each in its own process; clients in this process each send one
streamed request after another. Each round takes transformers and then every server at every number of clients, so that
a busy machine affects all; figures are medians over rounds, a ratio is the median of those within rounds. Weights are
random and in fp32 for transformers; tokens are greedy and guessed ahead by neither; every token comes as an event.

    python tools/bench/serving.py --output tools/bench/results/serving.json
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or else threads that wait keep others from working

import sentencepiece as spm
import torch
from decode import theirs
from machine import description, publish

from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained

FORMATS = {"fp32": [], "bf16": ["dtype=bf16"], "int8": ["engine.quantization=int8"]}
"""Settings of the server."""
LETTERS = "abcdefgh"
NUM_PIECES = 300
"""Pieces of the tokenizer, from whose ids prompts are drawn; the model's other ids have no piece."""


def export(model: Transformer, root: Path) -> Path:
    """A model directory; its tokenizer knows single bytes and a few invented words."""
    draw, tokenizer = random.Random(0), io.BytesIO()
    lines = [" ".join("".join(draw.choices(LETTERS, k=4)) for _ in range(12)) for _ in range(200)]
    special = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "byte_fallback": True}
    shape = {"model_type": "bpe", "vocab_size": NUM_PIECES, "add_dummy_prefix": False, "minloglevel": 2}
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=tokenizer, normalization_rule_name="identity", **special, **shape
    )
    (root / "tokenizer.model").write_bytes(tokenizer.getvalue())
    save_pretrained(model, root / "export", dtype=torch.float32, tokenizer_model=root / "tokenizer.model")
    return root / "export"


@contextmanager
def server(model_dir: Path, settings: list[str], threads: int) -> Iterator[tuple[str, int]]:
    """Host and port of a server in its own process."""
    arguments = ["serve", f"model_dir={model_dir}", "server.port=0", "engine.prompt_lookup=false", *settings]
    command = [sys.executable, "-m", "nemotron4_config.main", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    try:
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r" at http://([\d.]+):(\d+)", line):
                break
        else:
            sys.exit(f"the server ended:\n{''.join(said)}")
        yield found[1], int(found[2])
    finally:
        process.terminate()
        process.communicate()


async def ask(address: tuple[str, int], prompt: list[int], count: int) -> list[float]:
    """The times of sending a prompt and of the arrival of each of `count` tokens."""
    body = {"prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, "stream": True, "logprobs": 0}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
    reader, writer = await asyncio.open_connection(*address)
    times = [time.perf_counter()]
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    async for line in reader:
        if line.startswith(b"data: {"):
            choice = json.loads(line[6:])["choices"][0]
            times += [time.perf_counter()] * len(choice["logprobs"]["tokens"] if choice["logprobs"] else ())
    writer.close()
    assert len(times) == count + 1, f"{len(times) - 1} tokens of {count} came"
    return times


def load(address: tuple[str, int], clients: list[list[list[int]]], count: int) -> dict[str, float]:
    """Figures of clients that work at the same time, each at its own prompts."""

    async def client(prompts: list[list[int]]) -> list[list[float]]:
        return [await ask(address, prompt, count) for prompt in prompts]

    async def everyone() -> list[list[list[float]]]:
        return await asyncio.gather(*map(client, clients))

    runs = [times for found in asyncio.run(everyone()) for times in found]
    seconds = max(times[-1] for times in runs) - min(times[0] for times in runs)
    firsts = [times[1] - times[0] for times in runs]
    gaps = [later - now for times in runs for now, later in itertools.pairwise(times[1:])]
    return {
        "tokens_per_second": len(runs) * count / seconds,
        "requests_per_second": len(runs) / seconds,
        **{f"first_token_ms_p{p}": 1e3 * percentile(firsts, p) for p in (50, 99)},
        **{f"between_tokens_ms_p{p}": 1e3 * percentile(gaps, p) for p in (50, 99)},
    }


def percentile(values: list[float], percent: int) -> float:
    """By linear interpolation; of one value it is that."""
    return statistics.quantiles(values * 2 if len(values) == 1 else values, n=100, method="inclusive")[percent - 1]


def prompts_of(clients: int, requests: int, length: int, seed: int) -> list[list[list[int]]]:
    """Different prompts for each client and request, so that none is found in the prefix cache."""
    draw = random.Random(seed)
    return [[[draw.randrange(4, NUM_PIECES) for _ in range(length)] for _ in range(requests)] for _ in range(clients)]


def summary(rounds: list[dict[str, float]], bases: list[float]) -> dict[str, Any]:
    """Medians over rounds, and that of the ratios to the base's tokens a second, with their quartiles."""
    found = {name: round(statistics.median(each[name] for each in rounds), 2) for name in rounds[0]}
    ratios = [each["tokens_per_second"] / base for each, base in zip(rounds, bases, strict=True)]
    low, middle, high = statistics.quantiles(ratios * 2 if len(ratios) == 1 else ratios, n=4)
    return {"ratio": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)], **found}


def main() -> None:
    """Measure everything; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--model", default="nano_30m", help="a preset")
    parser.add_argument("--threads", type=int, default=1, help="of each server's engine, and of transformers")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="of the servers")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count, length = arguments.new_tokens, arguments.prompt_tokens
    document: dict[str, Any] = {
        **description("torch", "transformers", "fastapi", "uvicorn", threads=arguments.threads),
        "what": f"{arguments.model}, prompts of {length} tokens, {count} new ones; times in milliseconds, as clients "
        "see them; ratios to transformers fp32, which takes one prompt after another",
        "rounds": arguments.rounds,
        "requests_per_client": arguments.requests,
    }
    config = ModelConfig.preset(arguments.model)
    model = Transformer(config).eval()
    initialise(model, 0, config)
    generate = theirs(model, "fp32")
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        model_dir = export(model, Path(root))
        addresses = {
            name: stack.enter_context(server(model_dir, FORMATS[name], arguments.threads)) for name in arguments.formats
        }
        bases: list[float] = []
        found: dict[tuple[str, int], list[dict[str, float]]] = {}
        for number in range(arguments.rounds + 1):  # the first warms up
            ones = prompts_of(2, 1, length, number)
            start = time.perf_counter()
            for prompts in ones:
                generate(prompts, count)
            bases.append(len(ones) * count / (time.perf_counter() - start))
            for clients in arguments.clients:
                prompts = prompts_of(clients, arguments.requests, length, 1000 * clients + number)
                for name, address in addresses.items():
                    found.setdefault((name, clients), []).append(load(address, prompts, count))
    base = statistics.median(bases[1:])
    document["transformers fp32"] = {"tokens_per_second": round(base, 2), "requests_per_second": round(base / count, 2)}
    for (name, clients), rounds in found.items():
        document.setdefault(f"served {name}", {})[f"{clients} clients"] = summary(rounds[1:], bases[1:])
    document["load_average_at_end"] = round(os.getloadavg()[0], 2)
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
