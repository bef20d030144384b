"""`python -m nemotron4_eval.lm_eval ...`: the LM Evaluation Harness's own command line, which knows our models.

The harness before plug-ins cannot find a model of another package by its name, so this registers it first:

    python -m nemotron4_eval.lm_eval run --model nemotron4 --model_args pretrained=MODEL_DIR --tasks arc_easy

`--model_args` also takes dtype, quantization, processes, document_start, cache and seed.
"""

import sys


def main() -> None:
    """Register the model and hand over to the harness; a mistake in the model's arguments is one line, status 2."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model

    from nemotron4_eval.harness.model import EngineLM

    register_model("nemotron4")(EngineLM)
    try:
        cli_evaluate()
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
