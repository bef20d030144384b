"""`corpus=debian`: hundreds of megabytes of real text in all of the paper's domains, from distribution packages.

`builder.build` is the entry point. It is not imported here: the job's dataclasses import only `config`.
"""

from .config import DebianConfig

__all__ = ["DebianConfig"]
