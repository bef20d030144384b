"""A StepRunner without a model, which remembers tokens where a model remembers keys and values.

The next token is a function of all tokens of a sequence as its memory gives them back, so a page that was lost, mixed
up or overwritten changes the text; beside that, memory is compared with what was put there at each step.
"""

from __future__ import annotations

import torch

VOCAB_SIZE, EOS_ID = 40, 3


class LetterTokenizer:
    """A letter for each id of 4 and above."""

    vocab_size, eos_id = VOCAB_SIZE, EOS_ID

    def decode_bytes(self, ids: list[int]) -> bytes:
        return bytes(ord("A") + token for token in ids)


def next_token(token_ids: list[int]) -> int:
    """Now and then the end; otherwise few enough different tokens that guesses are sometimes right."""
    mixed = sum((i % 11 + 1) * token for i, token in enumerate(token_ids))
    return EOS_ID if mixed % 29 == 0 else 4 + (token_ids[-1] + mixed % 2) % 6


def expected_tokens(prompt_ids: tuple[int, ...], max_new_tokens: int) -> list[int]:
    """What any run must give."""
    token_ids = list(prompt_ids)
    while len(token_ids) < len(prompt_ids) + max_new_tokens:
        token_ids.append(next_token(token_ids))
        if token_ids[-1] == EOS_ID:
            break
    return token_ids[len(prompt_ids) :]


class TokenRunner:
    """With slabs or paged. `fail` may be set to a function of a method's name, which may raise."""

    vocab_size, equal_bits = VOCAB_SIZE, True

    def __init__(self, *, is_paged: bool, num_pages: int, page_tokens: int = 4, max_sequence_length: int = 64) -> None:
        self.is_paged, self.num_pages, self.page_tokens = is_paged, num_pages, page_tokens
        self.max_sequence_length = max_sequence_length
        self.pages: dict[int, list[int | None]] = {}
        self.slabs: dict[int, list[int | None]] = {}
        self.tables: dict[int, list[int]] = {}
        self.true_ids: dict[int, list[int]] = {}
        self.capacities: dict[int, int] = {}
        self.steps: list[list] = []
        self.fail = lambda name: None

    def open(self, sequence, capacity, pages, num_cached):
        assert sequence not in self.capacities
        assert num_cached % self.page_tokens == 0
        assert num_cached < capacity
        self.fail("open")
        cached = [self.pages[page] for page in pages[: num_cached // self.page_tokens]]
        if self.is_paged:
            assert len(set(pages)) == len(pages) == -(-capacity // self.page_tokens)
            assert all(0 <= page < self.num_pages for page in pages)
            self.tables[sequence] = list(pages)
        else:
            assert len(pages) == len(cached)
            self.slabs[sequence] = [token for page in cached for token in page] + [None] * (capacity - num_cached)
        self.capacities[sequence] = capacity
        self.true_ids[sequence] = [token for page in cached for token in page]
        self._check_memory()

    def run(self, spans):
        self.steps.append(list(spans))
        self.fail("run")
        assert len({span.sequence for span in spans}) == len(spans) > 0
        return [self._run(span) for span in spans]

    def _run(self, span):
        known = self.true_ids[span.sequence]
        assert span.begin == len(known)
        assert len(span.token_ids) > 0
        assert not span.is_prefill or span.begin % self.page_tokens == 0
        assert len(known) + len(span.token_ids) <= self.capacities[span.sequence]
        for token in span.token_ids:
            self._write(span.sequence, len(known), token)
            known.append(token)
        read = [self._read(span.sequence, at) for at in range(len(known))]
        assert read == known
        logits = torch.zeros(span.num_logits, VOCAB_SIZE + 2)
        logits[:, VOCAB_SIZE:] = 9  # ids without a piece
        for row in range(span.num_logits):
            logits[row, next_token(read[: len(read) - span.num_logits + 1 + row])] = 5
        return logits

    def truncate(self, sequence, length):
        assert length <= len(self.true_ids[sequence])
        del self.true_ids[sequence][length:]

    def save(self, sequence, page_index, page):
        begin, end = page_index * self.page_tokens, (page_index + 1) * self.page_tokens
        assert end <= len(self.true_ids[sequence])
        self.fail("save")
        if self.is_paged:
            assert self.tables[sequence][page_index] == page
        else:
            self.pages[page] = self.slabs[sequence][begin:end]
        self._check_memory()

    def close(self, sequence):
        del self.capacities[sequence], self.true_ids[sequence]
        self.slabs.pop(sequence, None), self.tables.pop(sequence, None)
        self.fail("close")

    def release(self, pages):
        assert not self.is_paged
        for page in pages:
            self.pages.pop(page, None)

    def _check_memory(self):
        """All memory, slabs included, is within the pool's size."""
        used = len(self.pages) + sum(-(-len(slab) // self.page_tokens) for slab in self.slabs.values())
        assert self.is_paged or used <= self.num_pages

    def _write(self, sequence, at, token):
        if self.is_paged:
            page = self.tables[sequence][at // self.page_tokens]
            self.pages.setdefault(page, [None] * self.page_tokens)[at % self.page_tokens] = token
        else:
            self.slabs[sequence][at] = token

    def _read(self, sequence, at):
        if self.is_paged:
            return self.pages[self.tables[sequence][at // self.page_tokens]][at % self.page_tokens]
        return self.slabs[sequence][at]
