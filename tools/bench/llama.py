"""llama.cpp through its Python binding, on one of our exports: greedy tokens of several prompts at once.

llama.cpp keeps keys and values in fp16, whatever the weights are in. Its functions are called directly: the binding's
own class takes one text at a time. The most likely token is found by NumPy, as ours is.
"""

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
from gguf_file import write_gguf

from nemotron4_model import Transformer, save_pretrained

NUMBER_FORMATS = {"fp32": "F32", "bf16": "BF16"}
"""llama.cpp's names of our formats."""


def load(model: Transformer, number_format: str, threads: int, now: Callable[[], float]) -> Callable[..., object]:
    """`decode.Generate` for a model, which is exported and written as GGUF."""
    _be_quiet()
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    settings.use_mmap = False
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "model.gguf"
        save_pretrained(model, Path(directory) / "export")
        write_gguf(Path(directory) / "export", file, NUMBER_FORMATS[number_format])
        loaded = llama_cpp.llama_model_load_from_file(str(file).encode(), settings)
    assert loaded, "llama.cpp does not load the file"
    contexts: dict[tuple[int, int], Context] = {}

    def generate(prompts: list[list[int]], count: int) -> tuple[list[list[int]], list[float]]:
        size = len(prompts), len(prompts[0]) + count
        if size not in contexts:  # in the round that is not counted
            contexts[size] = Context(loaded, model.config.vocab_size, *size, threads)
        context = contexts[size]
        ids = context.begin(prompts)
        tokens, times = [[token] for token in ids], [now()]
        for position in range(len(prompts[0]), len(prompts[0]) + count - 1):
            ids = context.step(ids, position)
            times.append(now())
            for text, token in zip(tokens, ids, strict=True):
                text.append(token)
        return tokens, times

    return generate


def features() -> str:
    """What of the processor the binding was built to use: its own build settings leave most of it out."""
    return str(llama_cpp.llama_print_system_info().decode()).strip(" |")


class Context:
    """Memory of keys and values of a number of sequences, and one batch that is filled anew for each step."""

    def __init__(self, model: object, vocab_size: int, sequences: int, length: int, threads: int) -> None:
        settings = llama_cpp.llama_context_default_params()
        tokens_of_one = -(-length // 256) * 256  # llama.cpp rounds up to this
        settings.n_ctx, settings.n_seq_max = sequences * tokens_of_one, sequences
        settings.n_batch = settings.n_ubatch = most = max(512, sequences * length)
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model, settings)
        assert self.context, "llama.cpp makes no context"
        self.batch, self.vocab_size = llama_cpp.llama_batch_init(most, 0, 1), vocab_size

    def begin(self, prompts: list[list[int]]) -> list[int]:
        """Forget everything and take prompts of one length; the token that follows each."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        rows = [(token, at, text) for text, ids in enumerate(prompts) for at, token in enumerate(ids)]
        return self._compute(rows, [at == len(prompts[0]) - 1 for _, at, _ in rows])

    def step(self, ids: list[int], position: int) -> list[int]:
        """Take a token of each sequence; the token that follows it."""
        return self._compute([(token, position, text) for text, token in enumerate(ids)], [True] * len(ids))

    def _compute(self, rows: list[tuple[int, int, int]], wanted: list[bool]) -> list[int]:
        batch = self.batch
        batch.n_tokens = len(rows)
        for row, (token, position, text) in enumerate(rows):
            batch.token[row], batch.pos[row], batch.n_seq_id[row] = token, position, 1
            batch.seq_id[row][0], batch.logits[row] = text, wanted[row]
        status = llama_cpp.llama_decode(self.context, batch)
        assert status == 0, f"llama_decode gave {status}"
        found = [llama_cpp.llama_get_logits_ith(self.context, row) for row, is_wanted in enumerate(wanted) if is_wanted]
        return [int(np.ctypeslib.as_array(logits_V, (self.vocab_size,)).argmax()) for logits_V in found]


@llama_cpp.llama_log_callback
def _say_nothing(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    pass


def _be_quiet() -> None:
    llama_cpp.llama_log_set(_say_nothing, ctypes.c_void_p(0))
