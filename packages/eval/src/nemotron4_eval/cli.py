"""The verb that this package adds to the `nemotron4` command line."""

from nemotron4_config import Command

EVAL = Command(
    job="nemotron4_eval.eval_job:EvalJob",
    run="nemotron4_eval.evaluation:run_eval",
    summary="Measure a trained model: held-out text, the paper's benchmarks and harness tasks",
)
