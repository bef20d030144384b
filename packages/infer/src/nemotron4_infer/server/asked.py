"""What was asked over HTTP as requests to the engine.

Invariant: whatever passes here can run: ids have a piece, prompt and answer fit in the context, and the number of texts
is bounded.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from nemotron4_data import Tokenizer
from nemotron4_infer.chat import ChatTemplate
from nemotron4_infer.engine.request import Request
from nemotron4_infer.sampling.config import SamplingConfig
from nemotron4_infer.sampling.grammar import JSON_OBJECT_SCHEMA
from nemotron4_infer.server.errors import ApiError
from nemotron4_infer.server.schema import ChatBody, CompletionBody, GenerationBody

DEFAULT_TOKENS = 16
"""Tokens of a completion that does not say how many."""
_TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The requests of one HTTP request, and how to answer it."""

    requests: list[Request]
    """One for each prompt."""
    n: int
    """Texts to answer for each prompt; the engine may be asked for more of them, and the best are kept."""
    added: list[int]
    """By prompt: how many tokens are in front of it that its sender does not know of."""
    echo: bool = False
    """Whether the text begins with the prompt's."""
    top_logprobs: int | None = None
    """Alternatives to show with each token; 0 none, None not even the token's own log-probability."""
    stream: bool
    """Whether to answer as events."""
    include_usage: bool
    """Whether the events end with the counts of tokens."""

    def shown_ids(self, prompt: int) -> tuple[int, ...]:
        """A prompt as it was sent."""
        return self.requests[prompt].prompt_ids[self.added[prompt] :]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads bodies for one model. A long text takes a while: call it in a thread."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    max_sequence_length: int
    put_eos_first: bool
    max_choices: int

    def completion(self, body: CompletionBody) -> Asked:
        """What a completion asks; ApiError if it cannot run."""
        _refuse(bool(body.suffix), "suffix", "is not supported: the model only continues texts")
        n, stream = body.n or 1, bool(body.stream)
        best_of = body.best_of or n
        _refuse(best_of < n, "best_of", f"must be at least n ({n})")
        _refuse(stream and best_of > n, "best_of", f"must equal n ({n}) with stream: the best is known at the end")
        max_tokens = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
        _refuse(max_tokens == 0 and not body.echo, "max_tokens", "must be at least 1, or 0 with echo")
        prompts = [body.prompt] if isinstance(body.prompt, str) or isinstance(body.prompt[0], int) else body.prompt
        self._check_choices(len(prompts), best_of)
        ids = [self._ids(prompt, "prompt") for prompt in prompts]
        eos_id = self.tokenizer.eos_id
        added = [int(self.put_eos_first and prompt[0] != eos_id) for prompt in ids]
        asked = [(eos_id,) * count + tuple(prompt) for count, prompt in zip(added, ids, strict=True)]
        for prompt in asked:
            self._check_length(len(prompt), max_tokens)
        logprobs = 0 if body.logprobs is None and best_of > n else body.logprobs
        sampling, schema = self._sampling(body, max_tokens), _json_schema(body)
        requests = [
            Request(
                prompt_ids=prompt,
                sampling=sampling,
                choices=best_of,
                logprobs=logprobs,
                prompt_logprobs=body.logprobs if body.echo else None,
                salt=body.cache_salt or "",
                json_schema=schema,
            )
            for prompt in asked
        ]
        return Asked(
            requests=requests,
            n=n,
            added=added,
            echo=bool(body.echo),
            top_logprobs=body.logprobs,
            stream=stream,
            include_usage=_include_usage(body),
        )

    def chat(self, body: ChatBody) -> Asked:
        """What a chat asks; ApiError if it cannot run."""
        template = self.template
        if template is None:
            raise ApiError(400, "the model has no chat template; use /v1/completions", code="no_chat_template")
        _refuse(body.top_logprobs is not None and not body.logprobs, "top_logprobs", "needs logprobs: true")
        n = body.n or 1
        self._check_choices(1, n)
        messages = [(message.role, message.text()) for message in body.messages]
        rule = f"there are {len(messages)} of them, more than the context of {self.max_sequence_length} tokens can hold"
        _refuse(len(messages) > self.max_sequence_length, "messages", rule, _TOO_LONG)
        self._check_size("".join(text for _, text in messages), "messages")
        try:
            prompt = tuple(template.encode(messages))
        except ValueError as error:
            raise ApiError(400, str(error), param="messages") from error
        wanted = body.max_completion_tokens or body.max_tokens
        _refuse(wanted == 0, "max_tokens", "must be at least 1")
        max_tokens = max(1, self.max_sequence_length - len(prompt)) if wanted is None else wanted
        self._check_length(len(prompt), max_tokens, "messages")
        sampling = self._sampling(body, max_tokens, template)
        top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
        request = Request(
            prompt_ids=prompt,
            sampling=sampling,
            choices=n,
            logprobs=top_logprobs,
            salt=body.cache_salt or "",
            json_schema=_json_schema(body),
        )
        return Asked(
            requests=[request],
            n=n,
            added=[0],
            top_logprobs=top_logprobs,
            stream=bool(body.stream),
            include_usage=_include_usage(body),
        )

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """ApiError if an id has no piece."""
        wrong = next((token for token in ids if token >= self.tokenizer.vocab_size), None)
        rule = f"the id {wrong} has no token; ids are 0 to {self.tokenizer.vocab_size - 1}"
        _refuse(wrong is not None, param, rule)

    def _ids(self, prompt: str | list[int], param: str) -> list[int]:
        if isinstance(prompt, str):
            self._check_size(prompt, param)
            return self.tokenizer.encode(prompt)
        self._check_length(len(prompt), 0)
        self.check_ids(prompt, param)
        return prompt

    def _check_size(self, text: str, param: str) -> None:
        """Refuse a text that cannot fit before tokenising it: no token stands for more bytes than the longest."""
        least = len(text.encode()) // int(self.tokenizer.num_bytes.max())
        rule = f"has at least {least} tokens, which is more than the context of {self.max_sequence_length}"
        _refuse(least > self.max_sequence_length, param, rule, _TOO_LONG)

    def _check_length(self, count: int, max_tokens: int, param: str = "prompt") -> None:
        longest = self.max_sequence_length
        rule = f"has {count} tokens, which with max_tokens ({max_tokens}) is more than the context of {longest}"
        _refuse(count + max_tokens > longest, param, rule, _TOO_LONG)

    def _check_choices(self, prompts: int, choices: int) -> None:
        count, most = prompts * choices, self.max_choices
        rule = f"asks for {count} texts ({prompts} prompts, {choices} each); at most {most} in one request"
        _refuse(count > most, "n" if choices > 1 else "prompt", rule)

    def _sampling(self, body: GenerationBody, max_tokens: int, template: ChatTemplate | None = None) -> SamplingConfig:
        bias = self._logit_bias(body.logit_bias or {})
        stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
        self.check_ids(body.stop_token_ids or [], "stop_token_ids")
        temperature = 1.0 if body.temperature is None else body.temperature
        try:
            return SamplingConfig(
                temperature=temperature,
                top_k=body.top_k if body.top_k is not None and body.top_k >= 1 else None,
                top_p=1.0 if body.top_p is None else body.top_p,
                min_p=body.min_p or 0.0,
                repetition_penalty=body.repetition_penalty or 1.0,
                presence_penalty=body.presence_penalty or 0.0,
                frequency_penalty=body.frequency_penalty or 0.0,
                logit_bias=bias,
                stop=[*stops, *(template.stop if template else ())],
                stop_token_ids=[*(body.stop_token_ids or ()), *(template.stop_token_ids if template else ())],
                ignore_eos=bool(body.ignore_eos),
                seed=secrets.randbits(63) if body.seed is None else body.seed % 2**63,
                max_new_tokens=max_tokens,
            )
        except ValueError as error:
            raise ApiError(400, str(error)) from error

    def _logit_bias(self, given: dict[str, float]) -> dict[int, float]:
        rule = f"keys must be token ids as text, from 0 to {self.tokenizer.vocab_size - 1}"
        are_ids = all(key.isascii() and key.isdigit() and len(key) < 10 for key in given)
        _refuse(not are_ids, "logit_bias", rule)
        biases = {int(key): bias for key, bias in given.items()}
        self.check_ids(list(biases), "logit_bias")
        return biases


def _include_usage(body: GenerationBody) -> bool:
    _refuse(body.stream_options is not None and not body.stream, "stream_options", "needs stream: true")
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def _json_schema(body: GenerationBody) -> str | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JSON_OBJECT_SCHEMA
    if wanted.json_schema is None:
        raise ApiError(400, "response_format.json_schema: is missing", param="response_format.json_schema")
    return json.dumps(wanted.json_schema.schema_)


def _refuse(condition: bool, param: str, rule: str, code: str | None = None) -> None:
    if condition:
        raise ApiError(400, f"{param}: {rule}", param=param, code=code)
