"""Languages and interface strings: which language a path is in, and the sentences inside .pak and .xpi files."""

from __future__ import annotations

import io
import itertools
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator

from .languages import language_of_code

PACKED_BYTES = 3_500
SENTENCE_BYTES = 40

#: Where a path names its language.
_PATH_PATTERNS = (
    r"langpack-([A-Za-z-]+)@",
    r"locales/([A-Za-z-]+)\.pak$",
    r"/([A-Za-z_@]+)/LC_MESSAGES/",
    r"\.([A-Za-z_-]{2,5})\.html$",
    r"/(?:help|html|manual|man|installation-guide-[a-z0-9]+)/([A-Za-z_@-]+)/",
)

#: udhr file names are ISO 639-3 with variants; one variant per language.
UDHR = {
    "arb": "ar", "azj_latn": "az", "bul": "bg", "ben": "bn", "cat": "ca", "ces": "cs", "dan": "da", "deu_1996":
    "de", "ell_monotonic": "el", "spa": "es", "est": "et", "pes_1": "fa", "fin": "fi", "fra": "fr", "glg": "gl",
    "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy", "ind": "id", "isl": "is", "ita": "it", "jpn":
    "ja", "kat": "ka", "kaz": "kk", "kan": "kn", "kor": "ko", "lit": "lt", "lav": "lv", "mkd": "mk", "mal": "ml",
    "mar": "mr", "nep": "ne", "nld": "nl", "nob": "no", "pol": "pl", "por_PT": "pt", "ron_2006":
    "ro", "rus": "ru", "slk": "sk", "slv": "sl", "als": "sq", "srp_cyrl": "sr", "swe": "sv", "tam": "ta", "tel":
    "te", "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "cmn_hans": "zh",
}  # fmt: skip


def language_of_udhr(path: str) -> str | None:
    """The paper's language code for a udhr file, None for variants and languages that are not used."""
    return UDHR.get(path.rsplit("/", 1)[-1].removesuffix(".html"))


def localized_path(path: str) -> str | None:
    """The paper's language code named by a folder or file in the path, if any."""
    for pattern in _PATH_PATTERNS:
        match = re.search(pattern, path)
        if match:
            return language_of_code(match.group(1))
    return None


def pak_strings(data: bytes) -> Iterator[str]:
    """Strings of a Chromium .pak file, version 5 (header, then uint16 id and uint32 offset per resource)."""
    if struct.unpack_from("<I", data)[0] != 5:
        raise ValueError("a .pak file is not version 5; see ui/base/resource/data_pack.cc of Chromium for the layout")
    count = struct.unpack_from("<H", data, 8)[0]
    entries = [struct.unpack_from("<HI", data, 12 + 6 * i) for i in range(count + 1)]
    for (_, start), (_, end) in itertools.pairwise(entries):
        try:
            yield data[start:end].decode("utf-8")
        except UnicodeDecodeError:
            continue


def xpi_strings(data: bytes) -> Iterator[str]:
    """Values of the .ftl and .properties files of a Firefox language pack."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith((".ftl", ".properties")):
                continue
            for line in archive.read(name).decode("utf-8").splitlines():
                match = re.match(r"\s*\.?[\w.-]+\s*=\s*(\S.*)$", line) or re.match(r"    ([^\s.\[*}].*)$", line)
                if match:
                    yield match.group(1)


def mo_strings(data: bytes) -> Iterator[str]:
    """Translations in a gettext catalogue that differ from the original. ValueError if it is not a catalogue."""
    if data[:4] != b"\xde\x12\x04\x95":
        raise ValueError("not a little-endian gettext catalogue")
    count, originals, translations = struct.unpack_from("<III", data, 8)
    for index in range(count):
        texts = []
        for table in (originals, translations):
            size, start = struct.unpack_from("<II", data, table + 8 * index)
            texts.append(data[start : start + size].decode("utf-8").rsplit("\x04", 1)[-1].split("\0"))
        if texts[0] != [""]:
            yield from (text for text in texts[1] if text not in texts[0])


def pack_strings(strings: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Distinct sentence-like strings joined by newlines into numbered texts of about PACKED_BYTES."""
    seen: set[str] = set()
    lines: list[str] = []
    number = 0
    for string in strings:
        string = re.sub(r"<[^>]+>|\\n|\s+", " ", string).strip()
        if len(string.encode()) < SENTENCE_BYTES or re.search(r"[{}$%<>&\\]|://", string) or string in seen:
            continue
        seen.add(string)
        lines.append(string)
        if sum(len(line.encode()) for line in lines) > PACKED_BYTES:
            yield number, "\n".join(lines)
            lines, number = [], number + 1
    if lines:
        yield number, "\n".join(lines)
