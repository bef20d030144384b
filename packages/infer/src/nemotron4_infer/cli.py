"""The verb that this package adds to the `nemotron4` command line."""

from nemotron4_config import Command

GENERATE = Command(
    job="nemotron4_infer.generate_job:GenerateJob",
    run="nemotron4_infer.streaming:run_generate",
    summary="Continue a prompt with a trained model, streaming the text",
)
