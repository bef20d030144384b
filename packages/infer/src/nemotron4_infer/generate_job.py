"""The job of `nemotron4 generate`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from nemotron4_common.rules import check_finite, require
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.sampling import SamplingConfig
from nemotron4_model import DType


@dataclass(kw_only=True)
class GenerateJob:
    """Continue a prompt, or many, with a trained model."""

    model_dir: str
    """Model directory, e.g. runs/demo/latest/export: config.json, *.safetensors, tokenizer.model."""

    prompt: str = ""
    """Text to continue, taken as the start of a document."""

    prompt_file: str | None = None
    """UTF-8 file to read the prompt from instead; its last line end is dropped, and `-` is standard input."""

    prompts_file: str | None = None
    """UTF-8 file of many prompts, continued together and written to `out`. In a .jsonl file each line is an object with
    `prompt` and, if wanted, `id`; in any other file each line is a prompt."""

    out: str | None = None
    """File of results of `prompts_file`: JSON lines in the order of the prompts, with the prompt's index (from 0) and
    id, text, tokens and finish_reason. Until all are done they are in OUT.partial, where the same command continues."""

    interactive: bool = False
    """Read line after line from the terminal and answer each, with what was said before as context."""

    chat: bool | None = None
    """Whether an interactive session is a chat, with the turn markers of NVIDIA's instruct models, or continues text;
    null means a chat if the model directory has a chat template. A model that was only pretrained has not learnt to
    answer."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the next token is chosen. Prompt number i of `prompts_file` draws with seed + i."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    """How much is computed at once, and in what format."""

    dtype: DType | None = None
    """Format of weights and activations, fp32 or bf16; null means bf16 on a GPU, fp32 on a CPU, where bf16 is slower.
    Norms and softmax are computed in fp32 in both."""

    def __post_init__(self) -> None:
        check_finite(self)
        count = self.sampling.max_new_tokens
        require(count >= 1, "sampling.max_new_tokens", count, "must be at least 1")
        require(self.prompt_file != "", "prompt_file", "''", "must name a file; - is standard input")
        require(self.prompts_file != "", "prompts_file", "''", "must name a file")
        for name in ("chat", "out"):
            mode = "interactive" if name == "chat" else "prompts_file"
            value = getattr(self, name)
            require(value is None or bool(getattr(self, mode)), name, value, f"is for {mode} only; leave it out")
        if self.prompts_file is not None or self.interactive:
            self._check_mode()
            return
        both = "cannot be combined with prompt_file" if self.prompt else "must not be empty"
        rule = f"{both}; give it as 'prompt=Once upon a time', or as prompt_file=PATH (- is standard input)"
        require(bool(self.prompt) == (self.prompt_file is None), "prompt", repr(self.prompt), rule)
        place = not_unicode(self.prompt)
        require(place is None, "prompt", repr(self.prompt), f"not UTF-8 at character {place}; correct it")

    def _check_mode(self) -> None:
        mode = "prompts_file" if self.prompts_file is not None else "interactive"
        others: dict[str, str | bool | None] = {"prompt": self.prompt, "prompt_file": self.prompt_file}
        if mode == "prompts_file":
            others["interactive"] = self.interactive
            rule = "must name the file for the results of prompts_file; give it as out=PATH.jsonl"
            require(bool(self.out), "out", repr(self.out), rule)
        for name, value in others.items():
            require(not value, name, value, f"cannot be combined with {mode}; leave one of them out")

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


def not_unicode(text: str) -> int | None:
    """Position of the first character that cannot be encoded: a byte of the command line that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
