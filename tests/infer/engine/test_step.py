"""A request's logits have the same bits whatever runs beside it, and are the model's."""

import random
from functools import cache
from itertools import count

import pytest
import torch

from nemotron4_infer.engine.batch import Span
from nemotron4_infer.engine.equal_bits import TILE_ROWS, Blocked, for_tiles, with_equal_bits
from nemotron4_infer.engine.step import CpuRunner
from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.weights.engine_weights import from_transformer
from nemotron4_infer.weights.formats import stored_parts
from nemotron4_infer.weights.linear import PlainLinear
from nemotron4_infer.weights.packed import PackedLinear, pack
from nemotron4_infer.weights.quantised import quantise, quantised_linear
from nemotron4_model import ModelConfig, Transformer, initialise

CONFIG = ModelConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=2_048,  # long sums, which libraries cut by the number of rows
    num_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,  # not hidden_size / num_attention_heads; 8 of 16 dimensions are rotated
    init_std=0.15,
    max_sequence_length=64,
)
TILE, PAGES = 8, 64


def quantised(quantization):
    def make(weight_FD):
        assert stored_parts(quantization, "mlp.up.weight", weight_FD.shape) is not None
        return quantised_linear(quantization, quantise(quantization, weight_FD))

    return make


FORMATS = {
    "fp32 packed": (torch.float32, pack),
    "fp32 plain": (torch.float32, PlainLinear),
    "bf16 packed": (torch.bfloat16, pack),
    "int8": (torch.bfloat16, quantised(Quantisation.int8)),
    "int4": (torch.bfloat16, quantised(Quantisation.int4)),
}


@cache
def transformer(dtype):
    model = Transformer(CONFIG)
    initialise(model, 3, CONFIG)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    return model.to(dtype).eval()


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


class Load:
    """Requests in random order on one runner, in tiles and guesses cut at random, with what others saved."""

    def __init__(self, runner, requests, seed, most=5):
        self.runner, self.random, self.most = runner, random.Random(seed), most
        self.waiting = [(number, *request) for number, request in enumerate(requests)]
        self.random.shuffle(self.waiting)
        self.running, self.pages, self.free, self.keys = [], {}, list(range(PAGES)), count()
        self.logits = {}
        self.hits = 0

    def run(self):
        """{number: logits of every computed position, from the last}."""
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.most and self.random.random() < 0.7:
                self.admit(*self.waiting.pop())
            spans = [self.span(sequence) for sequence in self.running]
            if not spans:
                continue
            for sequence, span, logits_TV in zip(self.running, spans, self.runner.run(spans), strict=True):
                sequence["logits"].append(logits_TV.clone())
                sequence["done"] += len(span.token_ids)
            for sequence in self.running:
                self.save(sequence)
            for sequence in [each for each in self.running if each["done"] == len(each["tokens"])]:
                self.running.remove(sequence)
                self.runner.close(sequence["key"])
                self.logits[sequence["number"]] = torch.cat(sequence["logits"])
        return self.logits

    def admit(self, number, prompt, text):
        hit = 0
        while hit + TILE < len(prompt) and tuple(prompt[: hit + TILE]) in self.pages:
            hit += TILE
        pages = [self.pages[tuple(prompt[:end])] for end in range(TILE, hit + 1, TILE)]
        key, tokens = next(self.keys), prompt + text
        self.hits += bool(hit)
        self.runner.open(key, len(tokens), pages, hit)
        self.running.append(
            {"number": number, "key": key, "prompt": prompt, "tokens": tokens, "done": hit, "logits": []}
        )

    def span(self, sequence):
        """All logits are wanted: of tiles, of guesses, and after guesses that turned out wrong."""
        begin, prompt, tokens = sequence["done"], sequence["prompt"], sequence["tokens"]
        if begin < len(prompt):
            new = prompt[begin : begin + TILE * self.random.randint(1, 3)]
            return Span(sequence["key"], begin, new, len(new), True)
        if self.random.random() < 0.3 and begin + 2 <= len(tokens):
            self.runner.run([Span(sequence["key"], begin, [1, 2], 2, False)])
            self.runner.truncate(sequence["key"], begin)
        new = tokens[begin : begin + self.random.randint(1, 3)]
        return Span(sequence["key"], begin, new, len(new), False)

    def save(self, sequence):
        prompt = sequence["prompt"]
        for index in range(min(sequence["done"], len(prompt)) // TILE):
            known = tuple(prompt[: (index + 1) * TILE])
            if known not in self.pages:
                self.pages[known] = self.free.pop()
                self.runner.save(sequence["key"], index, self.pages[known])


def requests():
    """Prompts of 1 to 50 tokens, some of which begin alike, and what follows."""
    draw = random.Random(1)
    stem = [draw.randrange(96) for _ in range(40)]
    lengths = [1, 3, 8, 9, 16, 17, 31, 47, 50]
    heads = [
        stem[: min(length - 1, cut)] for length, cut in zip(lengths, (0, 40, 7, 40, 40, 16, 24, 40, 20), strict=True)
    ]
    prompts = [
        head + [draw.randrange(96) for _ in range(n - len(head))] for head, n in zip(heads, lengths, strict=True)
    ]
    return [(prompt, [draw.randrange(96) for _ in range(draw.randint(0, 9))]) for prompt in prompts]


def alone(runner, asked):
    return [Load(runner, [request], seed=0, most=1).run()[0] for request in asked]


def runner_of(name):
    dtype, make = FORMATS[name]
    return CpuRunner(from_transformer(transformer(dtype), make), PAGES, page_tokens=TILE, step_tokens=128)


def differing(runner, asked, expected, seeds):
    """Requests whose bits differ between alone and in any of some loads."""
    found, hits = set(), 0
    for seed in seeds:
        load = Load(runner, asked, seed)
        for number, logits_TV in load.run().items():
            if not torch.equal(logits_TV, expected[number][-len(logits_TV) :]):
                found.add(number)
        hits += load.hits
    assert hits, "no prompt began like an earlier one"
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_logits_have_the_same_bits_in_any_load(name, threads):
    runner = runner_of(name)
    assert runner.equal_bits
    # Threads take long where cores are busy.
    num_loads, asked = (3, requests()) if torch.get_num_threads() == 1 else (1, requests()[-5:])
    assert differing(runner, asked, alone(runner, asked), range(num_loads)) == set()


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith("int")])
def test_logits_are_those_of_the_model(name):
    runner, asked = runner_of(name), requests()
    model = transformer(runner.weights.dtype)
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 0.06}[runner.weights.dtype]
    with torch.no_grad():
        for (prompt, text), logits_TV in zip(asked, alone(runner, asked), strict=True):
            expected_TV = model(torch.tensor([prompt + text]))[0]
            scale = float(expected_TV.float().std())
            torch.testing.assert_close(logits_TV, expected_TV, atol=tolerance * scale, rtol=tolerance)


def test_rows_that_were_not_padded_would_differ():
    """Guards the first test: what it compares does depend on the number of rows."""
    runner, asked = runner_of("fp32 plain"), requests()
    expected = alone(runner, asked)
    assert runner.row_multiple > 1
    runner.row_multiple = 1
    assert differing(runner, asked, expected, range(2))


def test_few_rows_are_padded_to_what_takes_least_time():
    seen = set()

    class Seen(PlainLinear):
        row_multiple, least_rows = 4, 6

        def __call__(self, x_ND):
            seen.add(len(x_ND))
            return super().__call__(x_ND)

    runner = CpuRunner(from_transformer(transformer(torch.float32), Seen), PAGES)
    runner.open(0, 1, [], 0)
    seen.clear()
    runner.run([Span(0, 0, [1], 1, is_prefill=False)])
    assert seen == {8}


class _SumsByRows:
    """Its results differ where the rows are no multiple of a number, or more than others; or, without, each time."""

    in_features, out_features, num_bytes, row_multiple, least_rows = 16, 4, 0, 1, 1

    def __init__(self, multiple, *mosts):
        self.multiple, self.mosts, self.calls = multiple, mosts, 0

    def __call__(self, x_ND):
        self.calls += 1
        rows = len(x_ND)
        wrong = self.multiple is not None and [rows % self.multiple != 0, *(rows > most for most in self.mosts)]
        error = sum(wrong) if wrong else self.calls
        return x_ND[:, :4] * (1 + error * 2**-20)


@pytest.mark.parametrize(
    ("multiple", "most", "expected"),
    [
        (1, 1_000, (1, None, True)),
        (8, 1_000, (8, None, True)),
        (1, 40, (1, 32, True)),
        (8, 40, (8, 32, True)),
        (1, 20, (32, None, True)),
        (None, 0, (1, None, False)),
    ],
)
def test_the_probe_finds_the_padding_and_the_blocks_that_hold(multiple, most, expected):
    weights = from_transformer(transformer(torch.float32), lambda _: _SumsByRows(multiple, most))
    weights, row_multiple, equal_bits = with_equal_bits(weights, 128)
    blocks = {each.block_rows if isinstance(each, Blocked) else None for each in weights.linears}
    assert (row_multiple, *blocks, equal_bits) == expected


@pytest.mark.parametrize(("mosts", "expected"), [((1_000,), None), ((40,), {None}), ((40, 100), {TILE_ROWS})])
def test_prompts_are_multiplied_apart_where_other_rows_are_in_blocks(mosts, expected):
    weights = from_transformer(transformer(torch.float32), lambda _: _SumsByRows(1, *mosts))
    weights, _, _ = with_equal_bits(weights, 128)
    tiles = for_tiles(weights, 128)
    assert (tiles and {getattr(each, "block_rows", None) for each in tiles.linears[:-1]}) == expected
    assert tiles is None or tiles.head is weights.head


def test_a_runner_without_equal_bits_says_so(caplog):
    weights = from_transformer(transformer(torch.float32), lambda _: _SumsByRows(None, None))
    assert not CpuRunner(weights, PAGES).equal_bits
    assert "do not give equal bits on this processor with" in caplog.text


def test_weights_that_onednn_refuses_stay_plain():
    assert isinstance(pack(torch.zeros(8, 16)), PackedLinear)
    assert isinstance(pack(torch.zeros(8, 16, dtype=torch.float64)), PlainLinear)
