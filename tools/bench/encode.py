"""How fast text becomes token ids, and ids text: ours beside SentencePiece's own calls and Hugging Face's tokenizers.

All have the vocabulary of the corpus and one thread, and take turns; megabytes (of UTF-8) a second of process time.

- prepare: what `nemotron4 prepare` does, compressed documents to token shards, with its check that each document can be
  restored exactly; `ours` is the call that encodes, `Tokenizer.encode_batch`.
- sentencepiece: `encode` of a list of documents, `num_threads=1`, and `decode` of a list of lists.
- tokenizers: `encode_batch_fast` and `decode_batch`, with the tokenizer.json that our export writes. The ids of each
  document are compared with ours.

    python tools/bench/encode.py build/bench/full/corpus --output tools/bench/results/encode.json
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # read when the library is imported

import numpy as np
import sentencepiece as spm
from contestants import TakeTurn, compared, turns
from machine import description, publish

from nemotron4_data.documents import FrameWriter, document_path, read_lines
from nemotron4_data.executor import open_executor
from nemotron4_data.manifest import TOKENIZER_FILE
from nemotron4_data.prepare_job import ExecutorConfig
from nemotron4_data.tokenise import tokenise_documents
from nemotron4_data.tokenizer import Tokenizer
from nemotron4_model import ModelConfig
from nemotron4_model.hugging_face.tokenizer_json import tokenizer_files

try:
    import tokenizers
except ImportError:
    tokenizers = None

KINDS = ("english", "multilingual", "code")


def documents(corpus: Path, kind: str, num_bytes: int) -> list[dict[str, Any]]:
    """Training documents, taken from all sources of a kind in turn, up to `num_bytes` of text."""
    paths = sorted((corpus / "documents" / kind).glob("*.train.jsonl.zst"))
    readers, found = [read_lines(path) for path in paths], []
    while readers and num_bytes > 0:
        for reader in list(readers):
            if (line := next(reader, None)) is None:
                readers.remove(reader)
            elif num_bytes > 0:
                found.append(json.loads(line))
                num_bytes -= len(found[-1]["text"].encode())
    return found


def seconds(call: Callable[[], object]) -> float:
    """Process time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


class Prepare:
    """The stage of `nemotron4 prepare` that encodes, in this process, on documents of its own."""

    def __init__(self, directory: Path, model: Path, records: Sequence[dict[str, Any]]) -> None:
        self._directory, self._model = directory, model
        writer = FrameWriter(document_path(directory / "documents", "bench/text", "train"))
        for record in records:
            writer.write(record)
        writer.close()

    def __call__(self) -> None:
        """Encode everything anew."""
        with (
            tempfile.TemporaryDirectory(dir=self._directory) as folder,
            open_executor(ExecutorConfig(num_workers=1)) as executor,
        ):
            shards, work, output = [("bench/text", "train")], Path(folder) / "work", Path(folder) / "tokens"
            work.mkdir()
            tokenise_documents(
                self._directory / "documents", shards, self._model, work, output, executor, lambda *_: None
            )


def hugging_face(model: Path) -> Any:
    """The tokenizers library with the vocabulary of a SentencePiece model."""
    config = ModelConfig.preset("nano_30m")
    config.vocab_size = max(config.vocab_size, Tokenizer(model).vocab_size)
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_files(model, config)["tokenizer.json"]))


def measure(records: list[dict[str, Any]], model: Path, rounds: int) -> dict[str, Any]:
    """Encode and decode the documents of one kind."""
    texts = [record["text"] for record in records]
    num_bytes = sum(len(text.encode()) for text in texts)
    theirs = spm.SentencePieceProcessor(model_file=str(model))
    ours = Tokenizer(model)
    flat, sizes = ours.encode_batch(texts)
    ids = [part.tolist() for part in np.split(flat, np.cumsum(sizes)[:-1])]
    differ = {"sentencepiece": sum(a != b for a, b in zip(ids, theirs.encode(texts), strict=True))}
    with tempfile.TemporaryDirectory() as folder:
        prepare = Prepare(Path(folder), model, records)
        encode: dict[str, Callable[[], object]] = {
            "ours": lambda: ours.encode_batch(texts),
            "prepare": prepare,
            "sentencepiece": lambda: theirs.encode(texts, num_threads=1),
        }
        decode: dict[str, Callable[[], object]] = {
            "ours": lambda: ours.decode_array(flat).decode(),
            "sentencepiece": lambda: theirs.decode(ids, num_threads=1),
        }
        if tokenizers is not None:
            other = hugging_face(model)
            found = [each.ids for each in other.encode_batch_fast(texts, add_special_tokens=False)]
            differ["tokenizers"] = sum(a != b for a, b in zip(ids, found, strict=True))
            encode["tokenizers"] = lambda: [e.ids for e in other.encode_batch_fast(texts, add_special_tokens=False)]
            decode["tokenizers"] = lambda: other.decode_batch(ids, skip_special_tokens=False)

        def speed(calls: dict[str, Callable[[], object]], name: str) -> dict[str, float]:
            return {"speed": num_bytes / 1e6 / seconds(calls[name])}

        by_encoder: dict[str, TakeTurn] = {name: lambda name=name: speed(encode, name) for name in encode}
        by_decoder: dict[str, TakeTurn] = {name: lambda name=name: speed(decode, name) for name in decode}
        return {
            "documents": len(texts),
            "megabytes": round(num_bytes / 1e6, 2),
            "tokens": len(flat),
            "documents_with_other_ids_than_ours": differ,
            "encode": compared(turns(by_encoder, (), rounds), "sentencepiece"),
            "decode": compared(turns(by_decoder, (), rounds), "sentencepiece"),
        }


def main() -> None:
    """Measure every kind; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="a corpus that `nemotron4 prepare` made")
    parser.add_argument("--megabytes", type=float, default=1.5, help="of each kind of text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    model = arguments.corpus / TOKENIZER_FILE
    document = {
        **description("sentencepiece", "numpy", *(["tokenizers"] if tokenizers else []), threads=1),
        "what": "MB of UTF-8 a second of process time, one thread; ratio to sentencepiece within rounds",
        "vocabulary": Tokenizer(model).vocab_size,
        "rounds": arguments.rounds,
        "left_out": {} if tokenizers else {"tokenizers": "not installed"},
        "kinds": {
            kind: measure(documents(arguments.corpus, kind, int(arguments.megabytes * 1e6)), model, arguments.rounds)
            for kind in KINDS
        },
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
