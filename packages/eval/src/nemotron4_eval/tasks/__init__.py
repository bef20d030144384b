"""Benchmarks as LM Evaluation Harness task YAML, one folder each."""
