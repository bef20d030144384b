"""Settings of the corpus that is built from distribution packages. Light on purpose: only the standard library."""

from __future__ import annotations

from dataclasses import dataclass

from nemotron4_common.rules import require


@dataclass(kw_only=True)
class DebianConfig:
    """How much text of each domain is taken, and where packages are kept. A megabyte is 10**6 bytes of UTF-8.

    The defaults leave 210, 45 and 45 MB after curation and deduplication: 70/15/15, the shares of Nemotron-4 15B
    (arXiv 2402.16819, section 2).
    """

    english_mb: float = 340.0
    """English text to take, in MB."""
    multilingual_mb: float = 62.0
    """Text in other natural languages to take, in MB."""
    code_mb: float = 58.0
    """Source code to take, in MB."""
    exponent: float = 0.5
    """A language or package of size s may give text in proportion to s**exponent: 1 is by size, 0 is equal shares."""
    cache: str = "data/debian-packages"
    """Directory of downloaded packages and the text read from them; remove it to fetch newer versions."""

    def __post_init__(self) -> None:
        for name in ("english_mb", "multilingual_mb", "code_mb"):
            size = getattr(self, name)
            require(size > 0, f"corpus.debian.{name}", size, "must be above 0; give megabytes of text")
        rule = "must lie in [0, 1]; 1 is by size, 0 is equal shares"
        require(0 <= self.exponent <= 1, "corpus.debian.exponent", self.exponent, rule)
        rule = "must name a directory for the packages; give a path"
        require(bool(self.cache), "corpus.debian.cache", "''", rule)

    @property
    def target_bytes(self) -> dict[str, float]:
        """Bytes of text to take from each domain."""
        megabytes = {"english": self.english_mb, "multilingual": self.multilingual_mb, "code": self.code_mb}
        return {domain: 1e6 * size for domain, size in megabytes.items()}
