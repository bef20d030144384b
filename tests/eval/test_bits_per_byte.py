"""Bits per byte against the plainest possible double loop."""

import math
import re

import pytest
import torch

from nemotron4_eval import evaluate_bits_per_byte
from nemotron4_eval.heldout.text import read_heldout
from nemotron4_infer import likelihood
from nemotron4_model.loss import Loss


@torch.no_grad()
def naive_nll_nats(model, tokens, eos_id, window, stride):
    """One token at a time, each with the context that its window gives it."""
    ids, total, end = [eos_id, *tokens.tolist()], 0.0, 0
    for position in range(1, len(ids)):  # ids[position] is target number position - 1
        if position > end:
            end = min(window if end == 0 else end + stride, len(ids) - 1)
        context = ids[max(0, end - window) : position]
        total -= torch.log_softmax(model(torch.tensor([context]))[0, -1].double(), -1)[ids[position]].item()
    return total


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 64), (17, 5), (30, 1)])
def test_equals_a_loop_over_documents_and_tokens(model, corpus, tokenizer, window, stride, monkeypatch):
    monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", 300)
    small = type(corpus)(corpus.tokenizer, {s: [t[:150] for t in texts] for s, texts in corpus.texts.items()})
    measured = evaluate_bits_per_byte(model, small, window=window, stride=stride)
    for source in small.heldout_names:
        nats = sum(naive_nll_nats(model, t, tokenizer.eos_id, window, stride) for t in small.documents(source))
        num_bytes = len(small.heldout_bytes(source))
        assert measured.sources[source] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 3, 50])
def test_ranks_that_share_the_text_add_up_to_one(model, corpus, ranks, monkeypatch):
    """With 50 ranks there are fewer batches than ranks. Each makes as many passes: those of a sharded model must."""
    monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", 300)
    small = type(corpus)(corpus.tokenizer, {s: [t[:150] for t in texts] for s, texts in corpus.texts.items()})
    whole = evaluate_bits_per_byte(model, small)
    parts, passes = [], []
    for rank in range(ranks):
        done = []
        with model.register_forward_pre_hook(lambda *_, done=done: done.append(1)):
            parts.append(evaluate_bits_per_byte(model, small, part=(rank, ranks)))
        passes.append(len(done))
    for source, nats in whole.nll_nats.items():
        assert math.fsum(part.nll_nats[source] for part in parts) == pytest.approx(nats, rel=1e-12)
    for part in parts:
        assert (part.num_bytes, part.num_tokens) == (whole.num_bytes, whole.num_tokens)
    assert len(set(passes)) == 1
    if ranks > 1:
        assert max(sum(part.nll_nats.values()) for part in parts) < sum(whole.nll_nats.values())


def test_overall_and_domains_weigh_sources_by_bytes(model, corpus):
    measured = evaluate_bits_per_byte(model, corpus)
    num_bytes = {source: len(corpus.heldout_bytes(source)) for source in corpus.heldout_names}
    bits = {source: measured.sources[source] * num_bytes[source] for source in num_bytes}
    assert measured.num_bytes == num_bytes
    assert measured.num_tokens == sum(len(tokens) for s in num_bytes for tokens in corpus.documents(s))
    assert measured.overall == pytest.approx(sum(bits.values()) / sum(num_bytes.values()))
    assert list(measured.domains) == ["english", "multilingual", "code"]
    english = ["english/books", "english/web"]
    expected = sum(bits[s] for s in english) / sum(num_bytes[s] for s in english)
    assert measured.domains["english"] == pytest.approx(expected)


def test_a_uniform_model_costs_log2_of_the_vocabulary_a_token(model, corpus):
    class Uniform(torch.nn.Module):
        config = model.config

        def forward(self, tokens_BT, targets_BT):
            nll_BT = torch.full(tokens_BT.shape, math.log(self.config.vocab_size))
            return Loss(nll_BT.mean(), nll_BT)

    measured = evaluate_bits_per_byte(Uniform(), corpus)
    bits = measured.num_tokens * math.log2(model.config.vocab_size)
    assert measured.overall == pytest.approx(bits / sum(measured.num_bytes.values()))


def test_defaults_are_the_models_context_and_half_of_it(model, corpus):
    explicit = evaluate_bits_per_byte(model, corpus, window=64, stride=32)
    assert evaluate_bits_per_byte(model, corpus) == explicit
    assert evaluate_bits_per_byte(model, corpus, stride=64) != explicit


def test_progress_reaches_the_total_and_the_models_mode_is_restored(model, corpus, capsys):
    seen = []
    model.train()
    try:
        measured = evaluate_bits_per_byte(model, corpus, progress=lambda done, total: seen.append((done, total)))
        assert model.training
    finally:
        model.eval()
    assert seen[-1] == (measured.num_tokens, measured.num_tokens)
    assert capsys.readouterr() == ("", "")


def test_a_byte_limit_takes_whole_first_documents_of_each_source(corpus):
    texts = {text.source: text for text in read_heldout(corpus, max_bytes_per_source=500)}
    # books: 40 + 700 characters pass 500; web: two of 300; de and c have one document each.
    assert {source: len(text.documents) for source, text in texts.items()} == {
        "english/books": 2,
        "english/web": 2,
        "multilingual/de": 1,
        "code/c": 1,
    }
    for source, text in texts.items():
        assert text.text == "".join(corpus.texts[source][: len(text.documents)]).encode()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 65}, "suite.window_tokens (65): must be at most the model's context of 64 tokens"),
        ({"window": 32, "stride": 33}, "suite.stride_tokens (33): must be in 1..32, the window"),
    ],
)
def test_impossible_windows_are_refused(model, corpus, settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evaluate_bits_per_byte(model, corpus, **settings)


def test_a_corpus_without_heldout_text_is_refused(tokenizer, corpus):
    message = "data.dir (in memory): has no held-out documents; prepare it again with a larger held-out share"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_heldout(type(corpus)(tokenizer, {}))
