"""The job of `nemotron4 generate`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from nemotron4_common.rules import require
from nemotron4_infer.sampling import SamplingConfig
from nemotron4_model import DType


@dataclass(kw_only=True)
class GenerateJob:
    """Continue a prompt with a trained model."""

    model_dir: str
    """Model directory, e.g. runs/demo/latest/export: config.json, *.safetensors, tokenizer.model."""

    prompt: str = ""
    """Text to continue, taken as the start of a document."""

    prompt_file: str | None = None
    """UTF-8 file to read the prompt from instead; its last line end is dropped, and `-` is standard input."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the next token is chosen."""

    dtype: DType | None = None
    """Format of weights and activations, fp32 or bf16; null means bf16 on a GPU, fp32 on a CPU, where bf16 is slower.
    Norms and softmax are computed in fp32 in both."""

    def __post_init__(self) -> None:
        count = self.sampling.max_new_tokens
        require(count >= 1, "sampling.max_new_tokens", count, "must be at least 1")
        require(self.prompt_file != "", "prompt_file", "''", "must name a file; - is standard input")
        both = "cannot be combined with prompt_file" if self.prompt else "must not be empty"
        rule = f"{both}; give it as 'prompt=Once upon a time', or as prompt_file=PATH (- is standard input)"
        require(bool(self.prompt) == (self.prompt_file is None), "prompt", repr(self.prompt), rule)
        place = _not_unicode(self.prompt)
        require(place is None, "prompt", repr(self.prompt), f"not UTF-8 at character {place}; correct it")

    def text(self) -> str:
        """The prompt, read from `prompt_file` if that is set. Raises ValueError or OSError if it cannot be read."""
        if self.prompt_file is None:
            return self.prompt
        content = sys.stdin.buffer.read() if self.prompt_file == "-" else Path(self.prompt_file).read_bytes()
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"prompt_file ({self.prompt_file}): not UTF-8 at byte {error.start}; convert it"
            ) from error
        text = text.removesuffix("\n").removesuffix("\r")
        require(text != "", "prompt_file", self.prompt_file, "is empty; write the prompt into it")
        return text


def _not_unicode(text: str) -> int | None:
    """Position of the first character that cannot be encoded: a byte of the command line that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
