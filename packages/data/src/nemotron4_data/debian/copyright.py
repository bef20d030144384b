"""The licence of a package, read from its copyright file if that is machine-readable.

Source: Machine-readable debian/copyright file, version 1.0 (DEP-5).
"""

from __future__ import annotations

import re

#: Recorded for a package whose copyright file is prose and whose row names no licence.
PROSE = "see its copyright file"


def is_copyright_file(path: str) -> bool:
    """Whether a member states the copyright of its package."""
    return bool(re.fullmatch(r"usr/share/doc/[^/]+/copyright", path))


def read_licenses(text: str) -> list[str]:
    """Short names of the licences in a machine-readable file: that of all files first, then the others in order."""
    if not re.match(r"\s*Format(-Specification)?:\s*\S*(copyright-format|dep5|dep-5)", text, re.I):
        return []
    stanzas = re.split(r"\n\s*\n", text)
    files = [stanza for stanza in stanzas if re.match(r"Files:", stanza)]
    files.sort(key=lambda stanza: not re.match(r"Files:\s*\*\s*$", stanza, re.M))
    names = [
        match.group(1).strip() for stanza in files if (match := re.search(r"^License:[ \t]*(\S.*)$", stanza, re.M))
    ]
    return list(dict.fromkeys(names))
