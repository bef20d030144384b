"""A model directory as a GGUF file for llama.cpp, whose own converter is not on the package registry.

Differences to the directory: norms hold 1 + weight; the numbers of config.json and the pieces of the tokenizer, if it
has one, are entries of the file. llama.cpp rotates int(fraction x hidden / heads) dimensions of heads that are
hidden / heads wide.
"""

from pathlib import Path

import gguf
import sentencepiece as spm
from safetensors.torch import load_file

from nemotron4_model import load_config

_TYPES = gguf.TokenType
_FILE_TYPES = {"F32": gguf.LlamaFileType.ALL_F32, "BF16": gguf.LlamaFileType.MOSTLY_BF16}


def write_gguf(directory: Path, target: Path, number_format: str = "F32") -> None:
    """One file, in F32 or BF16, from a directory whose weights are one safetensors file; norms stay in fp32."""
    config = load_config(directory)
    assert config.head_dim is None or config.head_dim * config.num_attention_heads == config.hidden_size
    writer = gguf.GGUFWriter(target, "nemotron")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_sequence_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_file_type(_FILE_TYPES[number_format])
    tokenizer = directory / "tokenizer.model"
    if tokenizer.exists():
        _add_pieces(writer, spm.SentencePieceProcessor(model_file=str(tokenizer)))
    else:
        writer.add_tokenizer_model("none")
    kind = gguf.GGMLQuantizationType[number_format]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.NEMOTRON, config.num_layers)
    for name, tensor in load_file(directory / "model.safetensors").items():
        target_name, values = names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.float().numpy()
        if tensor.ndim == 1:
            writer.add_tensor(target_name, values + 1 if name.endswith("norm.weight") else values)
        else:
            writer.add_tensor(target_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_pieces(writer: gguf.GGUFWriter, pieces: spm.SentencePieceProcessor) -> None:
    ids = range(pieces.vocab_size())
    kinds = ((pieces.is_unknown, _TYPES.UNKNOWN), (pieces.is_control, _TYPES.CONTROL), (pieces.is_byte, _TYPES.BYTE))
    writer.add_tokenizer_model("llama")  # SentencePiece
    writer.add_token_list([pieces.id_to_piece(id_) for id_ in ids])
    writer.add_token_scores([pieces.get_score(id_) for id_ in ids])
    writer.add_token_types([next((kind for test, kind in kinds if test(id_)), _TYPES.NORMAL) for id_ in ids])
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
