"""`corpus=debian`: hundreds of megabytes of real text in all of the paper's domains, out of distribution packages.

`builder.build` is the entry. It is not imported here: the job's dataclasses import `config` alone.
"""

from .config import DebianConfig

__all__ = ["DebianConfig"]
