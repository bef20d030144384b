"""Raw files of every format, built in memory from given texts, for tests of the readers."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
}


def write_raw(path: Path, *records: object) -> None:
    """Write records as JSON lines, those in bytes as they are."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records))


def jsonl(texts: list[str]) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def html(text: str) -> bytes:
    """A page with navigation around its text."""
    return f"<html><body><nav><a href=x>Home</a></nav><main><p>{text}</p></main></body></html>".encode()


def warc(bodies: list[bytes], header: str = "Content-Type: text/html; charset=utf-8", kind: str = "response") -> bytes:
    """A web archive with one response each."""
    records = []
    for number, body in enumerate(bodies):
        block = f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode() + body
        head = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
            f"WARC-Target-URI: http://example.org/{number}\r\nWARC-Date: 2020-01-01T00:00:0{number % 10}Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
        )
        records.append(head.encode() + block + b"\r\n\r\n")
    return b"".join(records)


def tar(members: dict[str, bytes]) -> bytes:
    """A tar archive of plain files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive of plain files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def parquet(texts: list[str], **columns: list[object]) -> bytes:
    """A Parquet file of one row a text."""
    out = io.BytesIO()
    pq.write_table(pa.table({"text": texts, **columns}), out)
    return out.getvalue()
