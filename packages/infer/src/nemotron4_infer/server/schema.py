"""What clients may send, as pydantic models: OpenAI's fields, and those of vLLM for what OpenAI lacks.

Invariant: nothing is converted: `true` is no number, "3" is no number, and NaN is nothing. A field that is null has its
default. Fields that are not named here are kept in `model_extra`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from nemotron4_infer.sampling.config import MAX_BIASES, MAX_STOP_CHARACTERS, MAX_STOPS

TAGS = ("<text>", "<texts>", "<ids>", "<id lists>", "<parts>")


class Body(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    first = value[0] if isinstance(value, list) and value else None
    kinds = (("<texts>", str), ("<ids>", int), ("<id lists>", list))
    return next((tag for tag, kind in kinds if isinstance(first, kind)), None)


def _stop_kind(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<texts>" if isinstance(value, list) else None


Text = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Prompt = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Text], Field(fail_fast=True), Tag("<texts>")]
    | Annotated[TokenIds, Tag("<ids>")]
    | Annotated[list[TokenIds], Field(fail_fast=True), Tag("<id lists>")],
    Discriminator(
        _prompt_kind,
        custom_error_type="prompt",
        custom_error_message="must be a text, a list of texts, a list of token ids or a list of such lists; not empty",
    ),
]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[
    Annotated[Stop, Tag("<text>")] | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True), Tag("<texts>")],
    Discriminator(_stop_kind, custom_error_type="stop", custom_error_message="must be a text or a list of texts"),
]


class StreamOptions(BaseModel):
    """With `stream`."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class JsonSchema(BaseModel):
    """A JSON schema and its name."""

    model_config = ConfigDict(strict=True)
    name: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What the text must be."""

    model_config = ConfigDict(strict=True)
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class GenerationBody(Body):
    """What completions and chat have in common."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    n: int | None = Field(None, ge=1)
    stop: Stops | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=MAX_BIASES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = Field(None, max_length=MAX_STOPS)
    cache_salt: str | None = Field(None, max_length=256)
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Prompt
    best_of: int | None = Field(None, ge=1)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    suffix: str | None = None


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


def _content_kind(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<parts>" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Field(fail_fast=True), Tag("<parts>")],
    Discriminator(
        _content_kind,
        custom_error_type="content",
        custom_error_message='must be a text or a list of {"type": "text", "text": ...}',
    ),
]


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    def text(self) -> str:
        """Its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[list[Any], Field(max_length=0)] | None = None


class TokenizeBody(Body):
    """POST /tokenize."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool | None = None


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
