"""The LM Evaluation Harness on our models."""
