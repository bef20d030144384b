"""The verbs that this package adds to the `nemotron4` command line."""

from nemotron4_config import Command

EVAL = Command(
    job="nemotron4_eval.eval_job:EvalJob",
    run="nemotron4_eval.evaluation:run_eval",
    summary="Measure a trained model: held-out text, the paper's benchmarks and harness tasks",
)

EVAL_REPORT = Command(
    job="nemotron4_eval.report.comparison:EvalReportJob",
    run="nemotron4_eval.report.comparison:run_eval_report",
    summary="Compare evaluations of several checkpoints: curves over tokens, paired differences",
)
