"""MBPP."""
