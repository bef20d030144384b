"""A model directory straight into the engine's weights, as they are stored or quantised on the way.

Invariant: every tensor is checked before any is read, and read a part at a time into memory of the device: beside the
weights there is one open file and what one weight needs while it is packed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nemotron4_common.rules import require
from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.weights import formats
from nemotron4_infer.weights.engine_weights import BlockWeights, EngineWeights, Norm
from nemotron4_infer.weights.linear import LinearOperator, PlainLinear
from nemotron4_infer.weights.quantised import check_device, empty_parts, quantise_rows, quantised_linear
from nemotron4_model import DType, ModelConfig, Transformer, load_config
from nemotron4_model.hugging_face import StoredTensors, weight_files
from nemotron4_model.hugging_face.names import hugging_face_shapes
from nemotron4_model.rotary import RotaryTables

_SAMPLES, _SAMPLE_BYTES = 8, 512


def load_engine_weights(
    directory: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantisation | None = None,
    make: Callable[[Tensor], LinearOperator] = PlainLinear,
) -> EngineWeights:
    """The weights in `directory` on `device`; `make` gives linears that are not quantised their form.

    `dtype` is that of the activations and of all weights but the quantised. ValueError, one line, if the directory does
    not hold a model, is quantised otherwise than `quantization` asks, or cannot be computed with.
    """
    config, found = load_config(directory), stored_quantization(directory)
    wanted = resolve_quantization(directory, quantization)
    if wanted is not None:
        check_device(wanted, device)
        assert dtype is torch.bfloat16, "resolve_dtype refuses others"
    loader = _Loader(Path(directory), config, dtype, device, found, wanted, make)
    loader.check()
    with torch.no_grad():
        return loader.load()


def stored_quantization(directory: str | Path) -> Quantisation | None:
    """The format of a directory's weights; ValueError, one line, if another program quantised them."""
    path = Path(directory) / "config.json"
    load_config(directory)  # which says what is wrong with the file
    return formats.from_json(json.loads(path.read_text(encoding="utf-8")), str(path))


def resolve_quantization(directory: str | Path, asked: Quantisation | None) -> Quantisation | None:
    """The format to compute with: the directory's, or the one that is asked for. ValueError if it has another."""
    found = stored_quantization(directory)
    if found is not None and asked is not None:
        rule = f"must be null or {found.value}, the format of the weights in {directory}; or give an unquantised export"
        require(asked is found, "engine.quantization", asked.value, rule)
    return asked or found


def resolve_dtype(asked: DType | None, device: torch.device, quantization: Quantisation | None) -> DType:
    """The dtype of the activations: bf16 on a GPU and with quantised weights, else fp32, unless another is asked for.

    ValueError for fp32 with quantised weights, for whose products only bf16 has fast kernels.
    """
    if quantization is not None:
        rule = f"must be bf16 or null with {quantization.value} weights, whose kernels take bf16; or do not quantise"
        require(asked is not DType.fp32, "dtype", "fp32", rule)
        return DType.bf16
    return asked or (DType.fp32 if device.type == "cpu" else DType.bf16)


def weights_digest(directory: str | Path) -> str:
    """SHA-256, as hex, that tells models apart. ValueError, one line, for a damaged file.

    Over config.json, the tokenizer if there is one, and of each weight file its header (names, shapes and dtypes), its
    size and, spread evenly, 512 bytes of eight places of each tensor: milliseconds even for a large model, because
    training changes every tensor. It is no proof that a file is undamaged.
    """
    root, digest = Path(directory), hashlib.sha256()
    reader, tokenizer = StoredTensors(root), ["tokenizer.model"] if (root / "tokenizer.model").is_file() else []
    for name in ("config.json", *tokenizer, *weight_files(directory)):
        path = root / name
        digest.update(f"{name} {path.stat().st_size}\n".encode())
        if path.suffix != ".safetensors":
            digest.update(path.read_bytes())
            continue
        reader.open(name)  # which says what is wrong with the file
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = file.read(size)
            digest.update(header)
            for entry in json.loads(header).values():
                if "data_offsets" in entry:  # not the metadata
                    begin, end = entry["data_offsets"]
                    for sample in range(_SAMPLES):
                        file.seek(8 + size + begin + (end - begin) * sample // _SAMPLES)
                        digest.update(file.read(min(_SAMPLE_BYTES, end - begin)))
    return digest.hexdigest()


def fingerprint(directory: str | Path, dtype: DType, quantization: Quantisation | None) -> str:
    """Names the weights and the format that they are computed in, such as `fp_0123456789abcdef_int8`."""
    return f"fp_{weights_digest(directory)[:16]}_{dtype.value if quantization is None else quantization.value}"


class _Loader:
    def __init__(
        self,
        root: Path,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        stored: Quantisation | None,
        wanted: Quantisation | None,
        make: Callable[[Tensor], LinearOperator],
    ) -> None:
        self.config, self.dtype, self.device, self.make = config, dtype, device, make
        self.stored, self.wanted = stored, wanted
        with torch.device("meta"):
            self.shapes = {name: parameter.shape for name, parameter in Transformer(config).named_parameters()}
        self.reader = StoredTensors(root)

    def check(self) -> None:
        """Raise ValueError unless the directory has exactly the tensors that config.json implies."""
        for name, shape in self.shapes.items():
            parts = formats.stored_parts(self.stored, name, shape)
            if parts is None:
                for stored_name, stored_shape in hugging_face_shapes(name, shape, self.config):
                    self.reader.check(stored_name, stored_shape)
                continue
            for part, (dtype, part_shape) in _named(name, parts):
                for stored_name, stored_shape in hugging_face_shapes(part, torch.Size(part_shape), self.config):
                    self.reader.check(stored_name, stored_shape, (dtype,))
        self.reader.check_nothing_is_left()

    def load(self) -> EngineWeights:
        config = self.config
        embedding_VD = self._read("embedding.weight", self.dtype)
        blocks = [self._block(f"blocks.{layer}.") for layer in range(config.num_layers)]
        norm, head = self._norm("norm"), self._linear("head.weight")
        with self.device:
            rotary = RotaryTables(config)
        return EngineWeights(
            config=config,
            dtype=self.dtype,
            device=embedding_VD.device,
            embedding_VD=embedding_VD,
            blocks=blocks,
            norm=norm,
            head=head,
            cos_PR=rotary.cos,
            sin_PR=rotary.sin,
        )

    def _block(self, prefix: str) -> BlockWeights:
        return BlockWeights(
            attention_norm=self._norm(f"{prefix}attention_norm"),
            qkv=self._linear(f"{prefix}attention.qkv.weight"),
            out=self._linear(f"{prefix}attention.out.weight"),
            mlp_norm=self._norm(f"{prefix}mlp_norm"),
            up=self._linear(f"{prefix}mlp.up.weight"),
            down=self._linear(f"{prefix}mlp.down.weight"),
        )

    def _norm(self, module: str) -> Norm:
        # As a model of this dtype has it: rounded to that, then used in fp32.
        weight_D, bias_D = (self._read(f"{module}.{kind}", self.dtype).float() for kind in ("weight", "bias"))
        return Norm(weight_D + 1, bias_D, self.config.norm_eps)

    def _linear(self, name: str) -> LinearOperator:
        parts = formats.stored_parts(self.wanted, name, self.shapes[name])
        if parts is None:
            return self.make(self._read(name, self.dtype))
        assert self.wanted is not None
        if self.stored is None:
            tensors = quantise_rows(
                self.wanted, name, self.shapes[name], lambda rows: self._rows(name, rows), self.device
            )
        else:
            tensors = empty_parts(parts, self.device)
            for (part, _), tensor in zip(_named(name, parts), tensors.values(), strict=True):
                self.reader.read_rows(part, 0, tensor, self.config)
        return quantised_linear(self.wanted, tensors)

    def _read(self, name: str, dtype: torch.dtype) -> Tensor:
        target = torch.empty(self.shapes[name], dtype=dtype, device=self.device)
        self.reader.read_rows(name, 0, target, self.config)
        return target

    def _rows(self, name: str, rows: slice) -> Tensor:
        target_ND = torch.empty(rows.stop - rows.start, self.shapes[name][1], device=self.device)
        self.reader.read_rows(name, rows.start, target_ND, self.config)
        return target_ND


def _named(name: str, parts: formats.Parts) -> Iterator[tuple[str, tuple[str, Sequence[int]]]]:
    """The parts under our names, such as blocks.0.mlp.up.weight_scale."""
    for kind, part in parts.items():
        yield name.removesuffix("weight") + kind, part
