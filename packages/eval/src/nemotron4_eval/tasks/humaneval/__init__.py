"""HumanEval."""
