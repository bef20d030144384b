"""SWORD modules (bibles and commentaries): a reader that needs all files of the module.

Source: the zText and zCom drivers of the SWORD library; blocks are zlib, their index is 3 x uint32 (offset, size,
inflated size), and verses are indexed by uint32 block, uint32 offset and uint16 or uint32 size.
"""

from __future__ import annotations

import html
import re
import struct
import zlib
from collections.abc import Iterator

from .text import Members, Text


def read_sword(members: Members) -> Iterator[Text]:
    """SWORD modules: zlib blocks (index of 3 x uint32) that hold verses (index of uint32, uint32, uint16 or uint32)."""
    files = dict(members)
    for path in sorted(name for name in files if name.endswith("zz")):
        stem, unit = path[:-3], path[-3]
        blocks = [
            zlib.decompress(files[path][start : start + size])
            for start, size, _ in struct.iter_unpack("<III", files[f"{stem}{unit}zs"])
            if size
        ]
        texts: dict[int, list[str]] = {}
        entry = struct.Struct("<III" if unit == "c" and len(files[f"{stem}{unit}zv"]) % 12 == 0 else "<IIH")
        seen = set()
        for block, start, size in entry.iter_unpack(files[f"{stem}{unit}zv"]):
            if size and (block, start) not in seen:
                seen.add((block, start))
                texts.setdefault(block, []).append(
                    _strip_osis(blocks[block][start : start + size].decode("utf-8", "replace"))
                )
        for block in sorted(texts):
            yield Text(f"{stem.rstrip('.')}-{block:04d}", "\n".join(text for text in texts[block] if text))


def _strip_osis(text: str) -> str:
    text = re.sub(r"<note\b.*?</note>|<title type=\"runningHead\".*?</title>", "", text, flags=re.S)
    text = re.sub(r"<(/?(p|div|lg|title|list|item)|l|lb|br|milestone)\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return "\n".join(re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines() if line.strip())
