"""`corpus=debian`: hundreds of megabytes of real text in all of the paper's domains, out of distribution packages."""

from .builder import build
from .config import DebianConfig

__all__ = ["DebianConfig", "build"]
