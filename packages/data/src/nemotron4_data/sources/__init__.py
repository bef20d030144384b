"""Raw text of many formats and places, read as a stream of records."""

from .places import RawFile, find_files
from .read import SUFFIXES, read_raw
from .records import Record, Refusal

__all__ = ["SUFFIXES", "RawFile", "Record", "Refusal", "find_files", "read_raw"]
