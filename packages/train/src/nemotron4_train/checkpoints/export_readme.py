"""README.md of an export: what it holds, what starts a document, and how other programs load it.

Invariant: figures come from the checkpoint and the model; the run's name, which the user chose, stays plain text.
"""

from __future__ import annotations

import re

from nemotron4_infer.engine_config import Quantisation
from nemotron4_model import ModelConfig

README = "README.md"

_TEXT = """\
# {name}, step {step:,}

A Nemotron-4 model ({architecture}) after {tokens:,} tokens in {step:,} steps: {parameters:,} parameters in
{dtype}, {vocab_size:,} token ids, a context of {context:,} tokens. `provenance.json` records what it was trained on.
Below, `DIR` stands for this directory.

## What starts a document

In training, every document was preceded by `</s>` (id 3). The tokenizer adds no token of its own, and `<s>` (id 2)
never occurred. So put id 3 before text that starts a document. Typed into a prompt, `</s>` is four characters of text
and not that token: prepend the id.

{loading}"""

_ELSEWHERE = """\
## transformers

Version 4.44 or newer, 5 included:

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIR")
model = AutoModelForCausalLM.from_pretrained("DIR")
ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer.encode("In the beginning")]])
print(tokenizer.decode(model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64)[0, 1:]))
```

## vLLM

```python
from vllm import LLM, SamplingParams

llm = LLM("DIR")
ids = [3, *llm.get_tokenizer().encode("In the beginning")]
print(llm.generate({"prompt_token_ids": ids}, SamplingParams(max_tokens=64))[0].outputs[0].text)
```

## llama.cpp

Its converter does not record that this tokenizer puts no space before a text, so llama.cpp adds one to every prompt.
Turn that off at each start; here, `</s>` in `-p` is the token:

```
python convert_hf_to_gguf.py DIR --outfile model.gguf
llama-completion -m model.gguf -no-cnv -p '</s>In the beginning' \\
  --override-kv tokenizer.ggml.add_space_prefix=bool:false
```
"""

_QUANTISED = """\
## How to load it

The linear weights are quantised to {format}, in a layout of nemotron4's own (`quantization_config` in `config.json`),
which transformers, vLLM and llama.cpp cannot open. It runs with

```
nemotron4 generate model_dir=DIR 'prompt=In the beginning'
nemotron4 serve model_dir=DIR
```

For other programs, export the run without `quantization=`. The tensors keep their names, and a quantised one has others
beside it:

{layout}
"""

_LAYOUTS = {
    Quantisation.int8: """\
- `NAME.weight`: int8; `NAME.weight_scale`: one number a row. The weight is `weight * weight_scale`.""",
    Quantisation.int4: """\
- `NAME.weight`: two columns a byte, the even one in its upper half, as q = 0 to 15.
- `NAME.weight_scale` and `NAME.weight_zero`: one number for each row and group of columns; a group is 128 columns, or
  64 or 32 where 128 does not divide them. The weight is `(q - 8) * weight_scale + weight_zero`.""",
    Quantisation.fp8: """\
- `NAME.weight`: float8_e4m3fn; `NAME.weight_scale`: one number a row. The weight is `weight * weight_scale`.""",
}


def export_readme(
    name: str, model: ModelConfig, *, step: int, tokens: int, dtype: str, quantization: Quantisation | None = None
) -> str:
    """The text of README.md; `name` is the run's, `dtype` that of the stored weights that are not quantised."""
    loading = _ELSEWHERE
    if quantization is not None:
        dtype = f"{quantization.value} and {dtype}"
        loading = _QUANTISED.format(format=quantization.value, layout=_LAYOUTS[quantization])
    return _TEXT.format(
        name=_as_text(name),
        step=step,
        tokens=tokens,
        dtype=dtype,
        parameters=model.num_parameters,
        vocab_size=model.vocab_size,
        context=model.max_sequence_length,
        loading=loading,
        architecture="`NemotronForCausalLM`" if quantization is None else "quantised",
    )


def _as_text(name: str) -> str:
    """A name on one line, with what Markdown or HTML would interpret escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(name.split()))
