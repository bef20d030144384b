"""What `nemotron4 generate` is asked to do."""

from dataclasses import dataclass, field

from nemotron4_infer.precision import Precision
from nemotron4_infer.sampling import SamplingConfig


@dataclass(kw_only=True)
class GenerateJob:
    """Continue a prompt with a trained model."""

    model_dir: str
    """Model directory, e.g. runs/demo/latest/export: config.json, *.safetensors, tokenizer.model."""

    prompt: str
    """Text to continue; it is read as the start of a document."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the next token is chosen."""

    dtype: Precision = Precision.auto
    """Format of the weights: auto, fp32 or bf16."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("prompt ('') must not be empty; give it as 'prompt=Once upon a time'")
