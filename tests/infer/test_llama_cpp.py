"""An export as a GGUF file, read by llama.cpp: its logits and its tokens are ours.

`nox -s gguf` runs this: the binding of llama.cpp for Python takes minutes to build.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from nemotron4_data import Tokenizer
from nemotron4_model import load_pretrained

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: run `nox -s gguf`")
pytest.importorskip("gguf", reason="gguf is not installed: run `nox -s gguf`")


@torch.no_grad()
def test_llama_cpp_gives_our_logits_and_tokens(model_dir, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools" / "bench")
    from gguf_file import write_gguf

    write_gguf(model_dir, tmp_path / "model.gguf")
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    text = "the red fox and the big dog"
    ids = Tokenizer(model_dir / "tokenizer.model").encode(text)
    assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ids
    theirs.eval(ids)
    expected_TV = load_pretrained(model_dir)(torch.tensor([ids]))[0]
    # llama.cpp keeps keys and values in fp16.
    np.testing.assert_allclose(theirs.scores[: len(ids)], expected_TV.numpy(), rtol=2e-2, atol=2e-2)
    theirs.close()
