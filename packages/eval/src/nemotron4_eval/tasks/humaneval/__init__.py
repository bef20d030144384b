"""HumanEval, as tasks of the harness."""
