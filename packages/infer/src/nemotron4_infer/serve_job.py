"""The job of `nemotron4 serve`."""

from dataclasses import dataclass, field
from enum import Enum

from nemotron4_common.rules import check_finite, require
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_model import DType


class MetricNames(Enum):
    """Whose names the metrics have."""

    nemotron4 = "nemotron4"
    """`nemotron4_num_requests_running` and so on."""
    vllm = "vllm"
    """`vllm:num_requests_running` and so on, so that dashboards made for vLLM open unchanged."""


@dataclass(kw_only=True)
class LimitsConfig:
    """What one client may take from the others."""

    body_bytes: int = 1_000_000
    """Largest body of a request, in bytes; a larger one is answered with 413."""

    header_seconds: float = 10.0
    """Time for a client to send the headers of a request, in seconds."""

    body_seconds: float = 30.0
    """Time for a client to send the body of a request, in seconds."""

    reader_seconds: float = 30.0
    """Time for a client to take what was sent to it, in seconds; one that takes longer is dropped."""

    idle_seconds: float = 5.0
    """How long a connection without a request stays open, in seconds."""

    comment_seconds: float = 10.0
    """A stream without news gets a comment this often, in seconds, so that nothing between takes it for dead."""

    max_connections: int = 1000
    """Number of connections that may be open at once; one more is answered with 503."""

    max_choices: int = 128
    """Most texts that one request may ask for: prompts times `n` or `best_of`."""

    def __post_init__(self) -> None:
        check_finite(self, "server.limits")
        for name in ("body_bytes", "max_connections", "max_choices"):
            require(getattr(self, name) >= 1, f"server.limits.{name}", getattr(self, name), "must be at least 1")
        for name in ("header_seconds", "body_seconds", "reader_seconds", "idle_seconds", "comment_seconds"):
            require(getattr(self, name) > 0, f"server.limits.{name}", getattr(self, name), "must be above 0")


@dataclass(kw_only=True)
class ServerConfig:
    """Where the server listens, to whom it answers, and how."""

    host: str = "127.0.0.1"
    """Address or name to listen on; 127.0.0.1 takes connections of this machine only, 0.0.0.0 of any."""

    port: int = 8000
    """Number of the port to listen on; 0 takes one that is free."""

    model_name: str | None = None
    """Name that clients call the model by; null means the run's name, or the model directory's."""

    api_key_file: str | None = None
    """File that holds the key that clients must send; the environment variable NEMOTRON4_API_KEY may hold it instead.
    With neither, anyone who can connect may ask."""

    allowed_hosts: list[str] = field(default_factory=list)
    """Names that clients may reach the server by, beside localhost and `host`, e.g. [gpu1.example.com]; [*] means any.
    A server on an address of a network also answers to any address written in numbers."""

    put_eos_first: bool = True
    """Whether to put the end-of-sequence token before a prompt that does not begin with it, as in training, where it
    precedes each document."""

    refuse_unknown_fields: bool = False
    """Whether a request with a field that the server does not know is refused; other servers ignore such fields."""

    drain_seconds: float = 30.0
    """After SIGTERM or Ctrl-C, how long requests that run may take to end, in seconds."""

    metrics: MetricNames = MetricNames.nemotron4
    """Whose names the metrics have: nemotron4 or vllm, for dashboards made for vLLM."""

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What one client may take from the others."""

    def __post_init__(self) -> None:
        check_finite(self, "server")
        require(self.host != "", "server.host", "''", "must name an address; 127.0.0.1 is this machine alone")
        require(0 <= self.port < 2**16, "server.port", self.port, "must be in [0, 65535]; 0 takes one that is free")
        name, rule = self.model_name, "must be text without spaces or control characters; leave it out for a default"
        is_name = name is None or (name != "" and name.isprintable() and " " not in name)
        require(is_name, "server.model_name", repr(name), rule)
        require(self.api_key_file != "", "server.api_key_file", "''", "must name a file")
        require(self.drain_seconds >= 0, "server.drain_seconds", self.drain_seconds, "must be at least 0")


@dataclass(kw_only=True)
class ServeJob:
    """Serve a trained model over HTTP."""

    model_dir: str
    """Model directory, e.g. runs/demo/latest/export: config.json, *.safetensors, tokenizer.model."""

    dtype: DType | None = None
    """Format of weights and activations, fp32 or bf16; null means bf16 on a GPU, fp32 on a CPU."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    """How much runs at once, and in what format."""

    server: ServerConfig = field(default_factory=ServerConfig)
    """Where the server listens, to whom it answers, and how."""

    def __post_init__(self) -> None:
        check_finite(self)
