"""The step over pages, on a CPU: its logits are the model's, in any pages, whatever else runs, also from a graph."""

import functools
import logging
from dataclasses import replace

import pytest
import torch
import varlen_on_cpu
from torch.fx.experimental.proxy_tensor import make_fx

from nemotron4_infer.engine import paged_attention
from nemotron4_infer.engine.batch import Span
from nemotron4_infer.engine.build_paged import num_pages
from nemotron4_infer.engine.graphs import ladder
from nemotron4_infer.engine.paged import CudaRunner
from nemotron4_infer.engine.paged_attention import Gathered, PagedVarlen, choose_attention
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.weights.engine_weights import from_transformer
from nemotron4_model import ModelConfig, Transformer, initialise

CONFIG = ModelConfig(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=64,
    num_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    init_std=0.2,
    max_sequence_length=40,
)
PAGE, PAGES = 4, 30


@pytest.fixture(scope="module")
def model():
    model = Transformer(CONFIG)
    initialise(model, 1, CONFIG)
    with torch.no_grad():  # norms begin at zero, where a wrong gain or bias would not show
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(parameter)))
    return model.eval()


def record(work):
    """As a CUDA graph: the operators, on the tensors that they were recorded with, and no Python."""
    return make_fx(work)()


def runner_of(model, **options):
    options = {"page_tokens": PAGE, "attention": Gathered(), **options}
    return CudaRunner(from_transformer(model), PAGES, 5, **options)


class Texts:
    """Random texts of a runner, whose pages are shuffled, and what the model says to each."""

    def __init__(self, model, runner, lengths):
        generator = torch.Generator().manual_seed(len(lengths))
        self.runner, self.free = runner, torch.randperm(PAGES, generator=generator).tolist()
        self.ids = [torch.randint(97, (length,), generator=generator).tolist() for length in lengths]
        with torch.no_grad():
            self.expected = [model(torch.tensor([ids]))[0] for ids in self.ids]
        self.pages = {}

    def open(self, text, cached_from=None, num_cached=0):
        count = -(-len(self.ids[text]) // PAGE)
        shared = self.pages[cached_from][: num_cached // PAGE] if num_cached else []
        self.pages[text] = [*shared, *(self.free.pop() for _ in range(count - len(shared)))]
        self.runner.open(text, len(self.ids[text]), self.pages[text], num_cached)

    def span(self, text, begin, end, num_logits=None, is_prefill=True):
        ids = self.ids[text][begin:end]
        return Span(text, begin, ids, len(ids) if num_logits is None else num_logits, is_prefill)

    def check(self, spans):
        for span, logits in zip(spans, self.runner.run(spans), strict=True):
            end = span.begin + len(span.token_ids)
            expected = self.expected[span.sequence][end - span.num_logits : end]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(params=["gathered", "varlen", "recorded", "equal bits"])
def runner(request, model, monkeypatch):
    options = {
        "gathered": {},
        "varlen": {"attention": PagedVarlen()},
        "recorded": {"capture": record},
        "equal bits": {"capture": record, "equal_bits": True},
    }[request.param]
    monkeypatch.setattr(paged_attention, "varlen_attn", varlen_on_cpu.paged)
    return runner_of(model, **options)


def test_steps_of_mixed_rows_give_the_logits_of_the_model(model, runner):
    texts = Texts(model, runner, [23, 40, 9, 1])
    texts.open(0), texts.open(1)
    texts.check([texts.span(0, 0, 8, 0), texts.span(1, 0, 4)])  # chunks of whole tiles
    texts.check([texts.span(1, 4, 32, 1), texts.span(0, 8, 18, 1)])
    texts.open(2)
    # Decoding beside a prompt; guesses of several tokens; single tokens only, in sizes and widths that grow.
    texts.check([texts.span(0, 18, 19, is_prefill=False), texts.span(2, 0, 8, 1), texts.span(1, 32, 35, 3, False)])
    runner.truncate(1, 33)
    texts.open(3)
    texts.check([texts.span(3, 0, 1)])
    texts.check([texts.span(1, 33, 34, is_prefill=False), texts.span(0, 19, 23, 2, False)])
    texts.check([texts.span(2, 8, 9, is_prefill=False)])
    for position in range(34, 40):
        texts.check([texts.span(1, position, position + 1, is_prefill=False)])


def test_what_is_cached_is_read_and_not_computed_again(model, runner):
    texts = Texts(model, runner, [18, 18])
    texts.ids[1][:8] = texts.ids[0][:8]
    with torch.no_grad():
        texts.expected[1] = model(torch.tensor([texts.ids[1]]))[0]
    texts.open(0)
    texts.check([texts.span(0, 0, 16)])
    runner.save(0, 1, texts.pages[0][1])
    runner.close(0)
    texts.open(1, cached_from=0, num_cached=8)
    texts.check([texts.span(1, 8, 17)])
    texts.check([texts.span(1, 17, 18, is_prefill=False)])


def test_a_graph_is_recorded_once_for_each_size_and_width(model):
    recorded = []

    def capture(work):
        recorded.append(work)
        return record(work)

    runner = runner_of(model, capture=capture)
    texts = Texts(model, runner, [6, 6, 6])
    for text in range(3):
        texts.open(text)
        texts.check([texts.span(text, 0, 2)])
    assert not recorded, "prompts are not replayed"
    for position in (2, 3, 4, 5):  # three rows in a graph of four; from position 4 on, of two pages
        texts.check([texts.span(text, position, position + 1, is_prefill=False) for text in range(3)])
    assert len(recorded) == 2


def test_what_cannot_be_captured_runs_eagerly_and_says_so_once(model, caplog):
    def capture(work):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    runner = runner_of(model, capture=capture)
    texts = Texts(model, runner, [4])
    texts.open(0)
    with caplog.at_level(logging.WARNING):
        for position in range(4):
            texts.check([texts.span(0, position, position + 1, is_prefill=False)])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == ("decoding runs without CUDA graphs from here on: operation not permitted when stream is capturing")


def test_bits_are_equal_alone_and_beside_others_where_that_is_asked(model):
    runner = runner_of(model, capture=record, equal_bits=True)
    texts = Texts(model, runner, [30, 11, 7])
    for text in range(3):
        texts.open(text)
    together = [runner.run([texts.span(0, 0, 25), texts.span(1, 0, 10), texts.span(2, 0, 7)])[0].clone()]
    singles = [texts.span(0, 25, 26, is_prefill=False), texts.span(1, 10, 11, is_prefill=False)]
    together.append(runner.run(singles)[0].clone())
    parts = [runner.run([texts.span(0, begin, end)])[0].clone() for begin, end in ((0, 8), (8, 12), (12, 25))]
    assert torch.equal(torch.cat(parts), together[0])
    assert torch.equal(runner.run(singles[:1])[0], together[1])


def test_sizes_of_graphs():
    assert ladder(1) == [1]
    assert ladder(3) == [1, 2, 4]
    assert ladder(20) == [1, 2, 4, 8, 16, 24]
    assert ladder(64)[-2:] == [56, 64]


HEADS = (6, 2, 8)


def chosen(page_tokens=256, dtype=torch.bfloat16):
    return choose_attention(torch.device("cpu"), dtype, HEADS, page_tokens, None)


def test_the_kernel_is_taken_where_it_is_right(monkeypatch, caplog):
    monkeypatch.setattr(paged_attention, "varlen_attn", varlen_on_cpu.paged)
    assert isinstance(chosen(), PagedVarlen)
    assert isinstance(chosen(page_tokens=64), Gathered)
    assert "its pages are multiples of 256 tokens, not 64" in caplog.text
    assert isinstance(chosen(dtype=torch.float32), Gathered)

    @functools.wraps(varlen_on_cpu.paged)
    def unaligned(*arguments, window_size, **options):
        return varlen_on_cpu.paged(*arguments, window_size=(-1, -1), **options)

    monkeypatch.setattr(paged_attention, "varlen_attn", unaligned)
    assert isinstance(chosen(), Gathered)
    assert "its kernel is off by" in caplog.text


def test_the_kernel_is_not_taken_where_there_is_none(caplog):
    assert isinstance(chosen(), Gathered)
    assert "attention gathers pages, which is slower: " in caplog.text


def test_the_pool_takes_what_is_free_beside_the_weights(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    weights = replace(from_transformer(model), device=torch.device("cuda", 0))
    page_bytes = PAGE * CONFIG.key_value_bytes_per_token(4)
    assert num_pages(weights, EngineConfig(max_running=3), PAGE) == 3 * CONFIG.max_sequence_length // PAGE
    everything = EngineConfig(max_running=10**9)
    assert num_pages(weights, everything, PAGE) == (1 << 30) // page_bytes - 1
    assert num_pages(weights, everything, PAGE, tensor=2) == (1 << 30) // (page_bytes // 2) - 1
    with pytest.raises(ValueError) as refusal:
        num_pages(weights, EngineConfig(cache_tokens=10**9), PAGE)
    room = ((4 << 30) // page_bytes - 1) * PAGE
    assert str(refusal.value) == (
        f"engine.cache_tokens (1000000000): does not fit: beside the weights there is room for {room} tokens; lower it"
    )
