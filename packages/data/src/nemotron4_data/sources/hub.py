"""Rows of a Hugging Face data set, streamed by the `datasets` library: hf://datasets/NAME?config=C&split=S&revision=R.

NAME is OWNER/DATASET, or a local folder as an absolute path.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from nemotron4_common.extras import check_installed

from .places import HUB_SCHEME
from .records import Record, Refusal

_OPTIONS = ("config", "split", "revision")


def parse_hub_url(url: str) -> tuple[str, dict[str, str]]:
    """Name and options of a data set. ValueError for an unknown option or a missing name."""
    query = urlsplit(url).query
    name = unquote(url.removeprefix(HUB_SCHEME).removesuffix(f"?{query}"))
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    if not name or (unknown := sorted(options.keys() - set(_OPTIONS))):
        what = f"has no option {unknown[0]}" if name else "names no data set"
        raise ValueError(f"corpus.files ({url}): {what}; write {HUB_SCHEME}OWNER/NAME?config=C&split=S&revision=R")
    return name, options


def read_dataset(url: str) -> Iterator[Record | Refusal]:
    """One record per row. OSError if the hub or the network fails."""
    name, options = parse_hub_url(url)
    check_installed(f"corpus.files ({url}): needs Hugging Face's datasets", ("datasets",), "nemotron4-data[hub]")
    import datasets

    try:
        rows: Any = datasets.load_dataset(
            name,
            options.get("config"),
            split=options.get("split", "train"),
            revision=options.get("revision"),
            streaming=True,
        )
        for number, row in enumerate(rows, start=1):
            yield Record(f"row {number}", row)
    except Exception as error:  # hub, network and readers each raise their own kinds of errors
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise OSError(errno.EIO, f"cannot be read ({reason})", url) from error
