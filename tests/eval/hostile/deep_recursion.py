"""Recurses without end through C, until the stack is full."""

import sys

sys.setrecursionlimit(2**30)


class Deep:
    def __getattr__(self, name):
        return getattr(self, name + "x"[:0])


print(Deep().missing)
