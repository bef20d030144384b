"""What every package shares: files that are whole or absent, locks, signals, errors in one line, the terminal.

Invariant: imports no package of ours, and nothing heavy.
"""
