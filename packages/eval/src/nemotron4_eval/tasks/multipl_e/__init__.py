"""MultiPL-E."""
