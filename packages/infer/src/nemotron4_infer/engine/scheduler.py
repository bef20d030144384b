"""What the next step computes: admission, and the division of a step's tokens.

Each step takes every decoding sequence's next token, then tiles of prompts in the order of their arrival, up to a
budget of tokens. A sequence is admitted when the memory of its prompt and all that it may generate is set aside, so
nothing that runs is ever stopped for another; admission is in the order of arrival, so nothing is overtaken.

Memory is counted in pages of the pool. With a paged cache a sequence owns the pages behind its hit and holds those of
its hit while it runs. With slabs it sets aside as many pages as its slab is long; its hit is copied there, and held
only until its prompt is computed. Either way, when nothing runs every page is available, and as `Engine.check` lets
no sequence exceed the pool, the first in the queue is then admitted.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from nemotron4_infer.engine.batch import Span, StepRunner
from nemotron4_infer.engine.pages import Node, PagePool, PageTokens


@dataclass(eq=False, kw_only=True, slots=True)
class Sequence:
    """One choice of a request, as the scheduler sees it: waiting -> prefill -> decode."""

    key: int
    """Its key at the runner."""
    request: int
    """The number of its request."""
    prompt_ids: tuple[int, ...]
    capacity: int
    """Most tokens that it will hold."""
    root: Hashable | None
    """Root of the tree in which its prompt's pages are kept; None keeps none."""
    scores_prompt: bool = False
    """Whether logits are wanted for all of its prompt, which is then computed whole."""

    num_computed: int = 0
    """Tokens whose keys and values the runner holds."""
    num_cached: int = 0
    """Tokens of the prompt that came from the cache."""
    next_ids: list[int] = field(default_factory=list)
    """In decoding: the tokens to compute next, the last chosen one and guesses of what follows."""
    prompt_pages: list[PageTokens] = field(default_factory=list)
    """The whole pages of its prompt, as long as they are to be kept in the tree."""
    path: list[Node] = field(default_factory=list)
    """The nodes that it holds: those of its first pages."""
    pages: list[int] = field(default_factory=list)
    """The pages that it owns. With slabs their number is what counts."""
    table: list[int] = field(default_factory=list)
    """With a paged cache: where its tokens are, page by page, owned or held."""

    @property
    def num_missing(self) -> int:
        """Tokens of the prompt that have yet to be computed."""
        return max(len(self.prompt_ids) - self.num_computed, 0)


class Scheduler:
    """The queue, what runs, and the pages. It calls the runner's `open`, `save`, `release` and `close`."""

    def __init__(self, runner: StepRunner, *, max_running: int, step_tokens: int) -> None:
        self.pool = PagePool(runner.num_pages)
        self.waiting: deque[Sequence] = deque()
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        self.is_short_of_pages = False
        """Whether the first in the queue waits for pages, not for a sequence to end."""
        self.num_queried_tokens = self.num_hit_tokens = 0
        self._runner, self._max_running = runner, max_running
        # Room for a token of each other running sequence and one tile: the first prompt always moves on.
        self.step_tokens = max(step_tokens, max_running + runner.page_tokens)

    @property
    def num_running(self) -> int:
        """Sequences that have been admitted."""
        return len(self.prefilling) + len(self.decoding)

    def admit(self) -> list[tuple[Sequence, Exception]]:
        """Start those of the queue that fit, in order; returns those that the runner failed to open, which are over."""
        failed = []
        self.is_short_of_pages = False
        while self.waiting and self.num_running < self._max_running:
            sequence = self.waiting[0]
            hit = self._hit(sequence)
            if hit is None:
                break
            if not self._reserve(sequence, hit):
                self.is_short_of_pages = True
                break
            self.prefilling.append(self.waiting.popleft())
            try:
                pages = sequence.table if self._runner.is_paged else [node.page for node in sequence.path]
                self._runner.open(sequence.key, sequence.capacity, pages, sequence.num_cached)
            except Exception as error:  # handed to the caller, who ends the sequence with it
                self._leave(sequence)
                failed.append((sequence, error))
        return failed

    def _hit(self, sequence: Sequence) -> list[Node] | None:
        """The cached beginning of a prompt; None if a prompt that is being computed is about to extend it.

        That one is ahead in the order of prefilling, where the first always moves on, so the wait is short.
        """
        scored = [other.request for other in self.prefilling if other.scores_prompt]
        if sequence.scores_prompt and sequence.request in scored:
            return None
        if sequence.root is None:
            return []
        size, prompt = self._runner.page_tokens, sequence.prompt_ids
        if not sequence.prompt_pages:
            sequence.prompt_pages = [prompt[at : at + size] for at in range(0, len(prompt) - size + 1, size)]
        if sequence.scores_prompt:
            return []
        # The last token of the prompt is always computed: its logits choose the first new one.
        pages = sequence.prompt_pages[: (len(prompt) - 1) // size]
        path = self.pool.match(sequence.root, pages)
        count = len(path)
        for other in self.prefilling if count < len(pages) else ():
            is_there = other.root == sequence.root and other.path[-1:] == path[-1:] and len(other.path) == count
            if is_there and other.prompt_pages[count : count + 1] == pages[count : count + 1]:
                return None
        return path

    def _reserve(self, sequence: Sequence, hit: list[Node]) -> bool:
        """Set aside the memory of a sequence: a hit, which is shortened if room is short, and pages of its own."""
        total = -(-sequence.capacity // self._runner.page_tokens)
        while True:
            count = total - (len(hit) if self._runner.is_paged else 0)
            if count + sum(node.num_holders == 0 for node in hit) <= self.pool.num_available:
                break
            if not hit:
                return False
            hit = hit[:-1]
        self.pool.hold(hit)
        pages = self.pool.take(count)
        assert pages is not None
        sequence.path, sequence.pages = hit, pages
        sequence.num_cached = sequence.num_computed = len(hit) * self._runner.page_tokens
        if sequence.root is not None and not sequence.scores_prompt:
            self.num_queried_tokens += len(sequence.prompt_ids)
            self.num_hit_tokens += sequence.num_cached
        if self._runner.is_paged:
            sequence.table = [node.page for node in hit] + pages
        else:
            self._runner.release(pages)
        return True

    def plan(self) -> list[tuple[Sequence, Span]]:
        """The next step: one span for each sequence that takes part."""
        left = self.step_tokens - len(self.decoding)
        plan = []
        for sequence in self.decoding:
            # Guesses take what is left where no prompt is waiting for it.
            guesses = [] if self.prefilling else sequence.next_ids[1 : 1 + left]
            left -= len(guesses)
            token_ids = [sequence.next_ids[0], *guesses]
            span = Span(sequence.key, sequence.num_computed, token_ids, len(token_ids), is_prefill=False)
            plan.append((sequence, span))
        for sequence in self.prefilling:
            count = sequence.num_missing
            if count > left:
                count = left // self._runner.page_tokens * self._runner.page_tokens
            if count == 0:
                break
            left -= count
            begin, end = sequence.num_computed, sequence.num_computed + count
            num_logits = count if sequence.scores_prompt else int(end == len(sequence.prompt_ids))
            token_ids = list(sequence.prompt_ids[begin:end])
            plan.append((sequence, Span(sequence.key, begin, token_ids, num_logits, is_prefill=True)))
        return plan

    def computed(self, sequence: Sequence, span: Span) -> None:
        """Note that a span was computed: keep the whole pages of a prompt, and let it decode after its last token."""
        sequence.num_computed = span.begin + len(span.token_ids)
        if not span.is_prefill:
            return
        num_whole = sequence.num_computed // self._runner.page_tokens
        while len(sequence.path) < min(num_whole, len(sequence.prompt_pages)):
            self._keep(sequence)
        if sequence.num_missing == 0:
            self.prefilling.remove(sequence)
            self.decoding.append(sequence)
            sequence.prompt_pages = []
            if not self._runner.is_paged:
                self._drop_path(sequence)

    def _keep(self, sequence: Sequence) -> None:
        """Put the next page of a prompt into the tree, unless it is there, or slabs leave no page to copy it to."""
        assert sequence.root is not None
        index = len(sequence.path)
        tokens = sequence.prompt_pages[index]
        node = self.pool.find(sequence.root, sequence.path, tokens)
        if node is not None:
            self.pool.hold([node])
        else:
            if not self._runner.is_paged:
                pages = self.pool.take(1)
                if pages is None:
                    sequence.prompt_pages = []
                    return
                sequence.pages += pages
            page = sequence.table[index] if self._runner.is_paged else sequence.pages[-1]
            self._runner.save(sequence.key, index, page)
            sequence.pages.remove(page)
            node = self.pool.insert(sequence.root, sequence.path, tokens, page)
        sequence.path.append(node)

    def truncate(self, sequence: Sequence, length: int) -> None:
        """Forget a sequence's tokens from position `length` on."""
        if length < sequence.num_computed:
            self._runner.truncate(sequence.key, length)
            sequence.num_computed = length

    def end(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is; its pages become free or stay cached, even if the runner fails."""
        if sequence not in self.prefilling and sequence not in self.decoding:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return
        try:
            self._runner.close(sequence.key)
        finally:
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        (self.prefilling if sequence in self.prefilling else self.decoding).remove(sequence)
        self._drop_path(sequence)
        self.pool.give_back(sequence.pages)
        sequence.pages = []

    def _drop_path(self, sequence: Sequence) -> None:
        self.pool.drop(sequence.path)
        sequence.path = []
