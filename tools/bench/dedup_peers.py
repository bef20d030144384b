"""The contestants of `dedup`: each drops near duplicates from the same shards, by equal shingles and signatures.

Shingles are runs of five words; a signature has 20 bands of 6 values. Only ours compares candidates by their exact
similarity; the others take them as they are. datasketch gets words cut by a regular expression, a fast hash (its
default is SHA-1) and whole documents at a time. datatrove gets words cut at white space, as its own tokenizer for
English needs spaCy, and SHA-1 where xxhash is too new for it; its four stages run one after the other.
"""

import importlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nemotron4_data.curation.dedup import deduplicate
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.documents import read_lines
from nemotron4_data.executor import open_executor
from nemotron4_data.prepare_job import ExecutorConfig

CONFIG = DedupConfig(exact=True, near=True)
_SEPARATORS = re.compile(r"[\s\x00-/:-@\[-^`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\u2000-\u206f]+")


def shingles(text: str, num_words: int = CONFIG.shingle_words) -> set[str]:
    """Runs of words of a text in a spaced script, lower-case and without punctuation."""
    words = [word for word in _SEPARATORS.split(text.lower()) if word]
    return {" ".join(words[i : i + num_words]) for i in range(max(1, len(words) - num_words + 1))}


def texts(shards: list[Path]) -> Iterator[str]:
    """The texts of all documents."""
    return (json.loads(line)["text"] for path in shards for line in read_lines(path))


def ours(shards: list[Path]) -> int:
    """Copies found by `nemotron4 prepare`'s deduplication, which reads, verifies and decides."""
    with tempfile.TemporaryDirectory() as work, open_executor(ExecutorConfig(num_workers=1)) as executor:
        return sum(len(drops) for drops in deduplicate(shards, CONFIG, Path(work), executor))


def datasketch(shards: list[Path]) -> int:
    """Documents with an older one in a bucket of MinHashLSH, which are not inserted."""
    from datasketch import MinHash, MinHashLSH
    from xxhash import xxh32_intdigest

    num_values = CONFIG.bands * CONFIG.rows
    index = MinHashLSH(num_perm=num_values, params=(CONFIG.bands, CONFIG.rows))
    num_copies = 0
    for number, text in enumerate(texts(shards)):
        signature = MinHash(num_perm=num_values, hashfunc=xxh32_intdigest)
        signature.update_batch([shingle.encode() for shingle in shingles(text)])
        if index.query(signature):
            num_copies += 1
        else:
            index.insert(number, signature)
    return num_copies


def white_space() -> Any:
    """A tokenizer for datatrove that cuts words at white space, and sentences by its own regular expression."""
    from datatrove.utils.word_tokenizers import WhitespaceTokenizer

    class WhiteSpace(WhitespaceTokenizer):  # type: ignore[misc]  # its words would be cut by spaCy
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    return WhiteSpace()


def datatrove(shards: list[Path]) -> int:
    """Documents that its four stages drop."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.logging import logger
    from xxhash import VERSION

    logger.remove()
    hashes = HashConfig(hash_fc="xxhash" if int(VERSION.split(".")[0]) < 4 else "sha1")  # it gives xxhash 4 a str
    config = MinhashConfig(CONFIG.shingle_words, CONFIG.bands, CONFIG.rows, hash_config=hashes)

    def documents() -> Iterator[Document]:
        return (Document(text=text, id=str(number)) for number, text in enumerate(texts(shards)))

    with tempfile.TemporaryDirectory() as work:
        signatures, buckets, removed = (f"{work}/{name}" for name in ("signatures", "buckets", "removed"))
        MinhashDedupSignature(signatures, config, white_space()).run(documents())
        for rank in range(CONFIG.bands):
            MinhashDedupBuckets(signatures, buckets, config=config).run(None, rank, CONFIG.bands)
        MinhashDedupCluster(buckets, removed, config).run()
        kept = sum(1 for _ in MinhashDedupFilter(removed).run(documents()))
        return sum(1 for _ in texts(shards)) - kept


def why_absent(name: str) -> str | None:
    """Why a package cannot be imported, in one line; None if it can."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return str(error).splitlines()[0]
    return None


CONTESTANTS: dict[str, Callable[[list[Path]], int]] = {"ours": ours, "datasketch": datasketch, "datatrove": datatrove}


def turn(name: str, shards: list[Path], num_documents: int) -> dict[str, Any]:
    """One turn: documents for each second of the processor, and how many were dropped."""
    begin = time.process_time()
    dropped = CONTESTANTS[name](shards)
    return {"speed": num_documents / (time.process_time() - begin), "dropped": dropped}
