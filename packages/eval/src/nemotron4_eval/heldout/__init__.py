"""Held-out text: bits per byte, compressors, and a question made from it."""
