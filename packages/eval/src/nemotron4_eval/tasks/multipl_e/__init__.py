"""MultiPL-E, as tasks of the harness."""
