"""Processes of their own, forked where torch, Lightning and our packages are imported, which takes seconds.

Invariant: they share nothing with the test but what they are given; the process that they are forked from runs nothing.
"""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("torch.distributed.tensor", "nemotron4_model", "nemotron4_data.prepare", "nemotron4_config.application"),
        *("nemotron4_config.errors", "nemotron4_config.main", "nemotron4_eval.evaluation"),
        *("nemotron4_train.launching.launch", "nemotron4_train.lightning.fit"),
    ]  # those that are not installed are left out
)
