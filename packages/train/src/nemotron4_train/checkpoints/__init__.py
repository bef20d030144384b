"""Checkpoints: reading, writing, and exporting them."""
