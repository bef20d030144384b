"""MBPP, as tasks of the harness."""
