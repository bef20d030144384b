"""The verbs this package brings to `nemotron4`."""

from nemotron4_config import Command

PREPARE = Command(
    job="nemotron4_data.prepare_job:PrepareJob",
    run="nemotron4_data.prepare:run_prepare",
    summary="Turn raw text into a verified, tokenised corpus",
)
