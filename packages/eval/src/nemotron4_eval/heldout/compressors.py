"""gzip and xz on the same held-out bytes: a yardstick that needs no model.

Invariant: a compressor gets the bytes the model was scored on, source by source, and starts without a dictionary.
"""

import gzip
import lzma
from collections.abc import Callable
from typing import Any

from nemotron4_eval.heldout.text import HeldoutText


def gzip_bits_per_byte(data: bytes) -> float:
    """Compressed bits per byte of `gzip -9`."""
    return 8 * len(gzip.compress(data, compresslevel=9, mtime=0)) / len(data)


def xz_bits_per_byte(data: bytes) -> float:
    """Compressed bits per byte of `xz -9e`."""
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def compressor_table(texts: list[HeldoutText], bits_per_byte: Callable[[bytes], float]) -> dict[str, Any]:
    """Bits per byte overall, of each domain, and of each source under the key `sources`."""
    table: dict[str, Any] = {"overall": bits_per_byte(b"".join(text.text for text in texts))}
    for domain in dict.fromkeys(text.domain for text in texts):
        table[domain] = bits_per_byte(b"".join(text.text for text in texts if text.domain == domain))
    table["sources"] = {text.source: bits_per_byte(text.text) for text in texts}
    return table
