"""Showing a training job before anything runs."""
