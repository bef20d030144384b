"""What an engine has done and is doing."""

from dataclasses import dataclass, field

from nemotron4_infer.engine.request import FinishReason

STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bounds of the sizes of steps that are counted apart."""


@dataclass(kw_only=True)
class Statistics:
    """Gauges, and counters since the engine was built. Sequences are choices: a request of n counts as n."""

    running: int = 0
    """Sequences that are being computed."""
    waiting: int = 0
    """Sequences in the queue."""
    waiting_for_pages: int = 0
    """The same as `waiting` while the first of them waits for memory, otherwise 0."""
    pages_free: int = 0
    """Pages that hold nothing. The three kinds always add up to all pages."""
    pages_cached: int = 0
    """Pages of prompts that nothing uses now; they are given up when memory is needed."""
    pages_running: int = 0
    """Pages that running sequences hold or have set aside."""
    prompt_tokens: int = 0
    """Tokens of prompts that were computed or came from the cache."""
    generated_tokens: int = 0
    """Tokens that were chosen."""
    prefix_queried_tokens: int = 0
    """Tokens of prompts that were looked up in the cache."""
    prefix_hit_tokens: int = 0
    """Those of them that came from the cache."""
    drafted_tokens: int = 0
    """Guesses of prompt lookup that were computed."""
    accepted_tokens: int = 0
    """Those of them that were right."""
    finished: dict[FinishReason, int] = field(default_factory=lambda: dict.fromkeys(FinishReason, 0))
    """Sequences that ended, by reason."""
    computed_tokens: int = 0
    """Tokens that steps computed: of prompts, one for each running sequence, and guesses."""
    step_sizes: list[int] = field(default_factory=lambda: [0] * (len(STEP_TOKENS) + 1))
    """Steps by their number of tokens: those of at most STEP_TOKENS[i], and of more than STEP_TOKENS[i - 1]."""
    failed_steps: int = 0
    """Steps in a row, up to the last one, that failed as a whole."""
    last_error: str | None = None
    """One line on the last fault of ours; None if there was none."""
