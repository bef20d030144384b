"""What is asked of the engine, and what it answers.

A request is a prompt and one or more choices, each of which becomes a sequence: waiting -> prefill -> decode -> done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from nemotron4_infer.sampling.choose import ChosenToken
from nemotron4_infer.sampling.config import SamplingConfig


class FinishReason(Enum):
    """Why a choice ended."""

    stop = "stop"
    """The model ended the text, or a stop string or stop token came."""
    length = "length"
    """sampling.max_new_tokens, or the end of the model's context, was reached."""
    cancelled = "cancelled"
    """`cancel` was called."""
    error = "error"
    """A fault of ours while the request was computed; `Delta.error` says which."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and how to continue it."""

    prompt_ids: tuple[int, ...]
    """At least one id; the caller has put the end-of-sequence token, which precedes every document, in front."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How tokens are chosen. With max_new_tokens 0 only the prompt is scored."""
    choices: int = 1
    """Choices to generate; the prompt is computed once."""
    logprobs: int | None = None
    """Alternatives to report with each generated token; 0 only the token's own log-probability, None nothing."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt, which are then in the first Delta of each choice."""
    salt: str = ""
    """Only requests of equal salt share keys and values of prompts."""
    json_schema: str | None = None
    """A JSON schema, as JSON, that the text must match."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a step added to a choice. A choice's last Delta has a finish reason, and none follows it."""

    request: int
    """The number that `add` returned."""
    choice: int = 0
    """0-based number of the choice."""
    tokens: Sequence[ChosenToken] = ()
    """Tokens chosen since the last Delta, the end-of-sequence token and those of a stop string included."""
    text: str = ""
    """Text that may be shown: complete characters, and no part of a stop string. It may be empty or lag the tokens."""
    prompt: Sequence[ChosenToken] | None = None
    """In the first Delta, if `prompt_logprobs` was asked: one for each prompt id, the first without log-probability."""
    finish: FinishReason | None = None
    """Why the choice ended; None while it runs."""
    cached_tokens: int = 0
    """Tokens of the prompt that came from the cache; in every Delta of the choice."""
    queued_seconds: float | None = None
    """In a choice's first Delta from an EngineThread: from `submit` to the first step that computed it."""
    error: str | None = None
    """With FinishReason.error: one line."""
