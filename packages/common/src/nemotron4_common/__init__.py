"""What all packages share: atomic file writing, locks, signals, one-line errors, the terminal.

Invariant: imports no other nemotron4 package, and nothing heavy.
"""
