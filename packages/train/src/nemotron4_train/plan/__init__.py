"""A training job before anything runs."""
