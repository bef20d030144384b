"""The verbs this package brings to `nemotron4`."""

from nemotron4_config import Command

PREPARE = Command(
    job="nemotron4_data.prepare_job:PrepareJob",
    run="nemotron4_data.prepare:run_prepare",
    summary="Turn raw text into a verified, tokenised corpus",
)
VERIFY = Command(
    job="nemotron4_data.verify:VerifyJob",
    run="nemotron4_data.verify:verify",
    summary="Check a corpus against its manifest, and a run's ledger against the corpus",
)
ADOPT = Command(
    job="nemotron4_data.adopt:AdoptJob",
    run="nemotron4_data.adopt:adopt",
    summary="Make a corpus from existing Megatron or NeMo token shards",
)
