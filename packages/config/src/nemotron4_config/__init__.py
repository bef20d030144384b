"""The only package that uses Hydra: the command line, composition of conf/ into typed jobs, and job files."""

from nemotron4_config.command import Command
from nemotron4_config.job_file import load_job, render_job

__all__ = ["Command", "load_job", "render_job"]
