"""The verbs that this package adds to the `nemotron4` command line."""

from nemotron4_config import Command

GENERATE = Command(
    job="nemotron4_infer.generate_job:GenerateJob",
    run="nemotron4_infer.streaming:run_generate",
    summary="Continue a prompt with a trained model, streaming the text",
)

SERVE = Command(
    job="nemotron4_infer.serve_job:ServeJob",
    run="nemotron4_infer.server.command:run_serve",
    summary="Serve a trained model over HTTP, as OpenAI's API and as a page",
)
