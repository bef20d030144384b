"""Check a job against the machine and the files before its workers start: devices, packages, corpus, checkpoint.

Rules between settings are in job.py. Every check here raises a ValueError of one line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nemotron4_common.extras import check_installed
from nemotron4_data import Corpus
from nemotron4_data.blend import phase_weights
from nemotron4_eval.heldout.text import check_domains
from nemotron4_train.checkpoints import reading, start_from
from nemotron4_train.evaluation import open_tasks
from nemotron4_train.job import Precision, TrainJob
from nemotron4_train.launcher_config import MAX_THREADS, LauncherKind
from nemotron4_train.launching.gpu_limits import check_gpu_here, state_bytes
from nemotron4_train.launching.legs import legs
from nemotron4_train.launching.memory_gate import check_fits
from nemotron4_train.launching.slurm.client import check_cluster
from nemotron4_train.launching.worker_process import refuse_rank_of_several
from nemotron4_train.machine import load_machine
from nemotron4_train.schedule import Timeline
from nemotron4_train.topology import Device, TopologyConfig


def check_machine(job: TrainJob) -> None:
    """Check that the job can be started, and that the packages that its precision and loggers need are here.

    For Slurm, check also that the job's legs fit the machines that their topologies name.
    """
    for machine in {leg.topology.machine for leg in legs(job)} - {None}:
        load_machine(machine)
    if job.launcher.kind is LauncherKind.local:
        _check_here(job)
    else:
        check_fits(job)
        if not job.launcher.dry_run:
            check_cluster(job.launcher)
    if job.precision.compute is Precision.fp8:
        from nemotron4_model.parallel.float8 import check_float8

        check_float8()
    if job.logger.mlflow and not (job.logger.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise ValueError(
            "logger.mlflow_tracking_uri (null): needs a server or a database; give one, such as http://HOST:5000, or"
            " set MLFLOW_TRACKING_URI"
        )
    for name in ("wandb", "mlflow"):
        if getattr(job.logger, name):
            check_installed(f"logger.{name} (true): needs the {name} package", (name,), f"nemotron4-train[{name}]")


def _check_here(job: TrainJob) -> None:
    """Check that the ranks can be started on this machine, and what surely does not fit in its memory."""
    if not job.launcher.dry_run:
        refuse_rank_of_several()
    num_threads(job)
    for leg in legs(job):
        _check_devices(leg.topology)
        _check_memory(job, leg.topology)
        if leg.topology.device is Device.cuda:
            for index in range(leg.topology.num_ranks_per_node):
                check_gpu_here(job, leg, index)


def num_threads(job: TrainJob) -> int:
    """CPU threads per rank: an equal share of this machine's cores unless set, so that ranks do not compete."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # later numbers are for nested regions
    if given and not (given.isdecimal() and 1 <= int(given) <= MAX_THREADS):
        raise ValueError(f"OMP_NUM_THREADS ({given}): must be a number from 1 to {MAX_THREADS}; correct or unset it")
    cores = int(given or len(os.sched_getaffinity(0)))
    return job.launcher.num_threads or max(1, cores // job.topology.num_ranks_per_node)


def _check_devices(topology: TopologyConfig) -> None:
    """Check that this machine has the devices for the ranks that would run on it."""
    if topology.num_nodes > 1:
        raise ValueError(
            f"topology.num_nodes ({topology.num_nodes}): launcher=local starts the ranks of one machine only;"
            " use launcher=slurm, or start the workers with torchrun or srun (launcher.dry_run=true shows how)"
        )
    if topology.device is Device.cuda:
        import torch

        asked, found = topology.num_ranks_per_node, torch.cuda.device_count()
        if asked > found:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
            raise ValueError(
                f"topology.device (cuda): this machine has {found} GPUs{hidden}, and {asked} ranks would run on it;"
                " choose another topology=OPTION"
            )


def _check_memory(job: TrainJob, topology: TopologyConfig) -> None:
    """Check that what a rank holds at any batch size fits in this machine's memory, or in that of one of its GPUs."""
    if topology.device is Device.cuda:
        import torch

        ranks, available, place = 1, torch.cuda.get_device_properties(0).total_memory, "a GPU"
    else:
        ranks, available = topology.num_ranks_per_node, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        place = "this machine"
    model, weights = job.model, state_bytes(job, topology) * ranks
    table = model.rotary_table_bytes * ranks  # whole on each rank
    for key, value, needed, what in (
        ("model", f"{model.num_parameters:,} parameters", weights, "weights, gradients and optimiser state"),
        ("model.max_sequence_length", f"{model.max_sequence_length}", table, "the tables of rotary positions"),
    ):
        if needed > available:
            raise ValueError(
                f"{key} ({value}): {what} take {needed / 1e9:,.0f} GB, and {place} has {available / 1e9:,.0f};"
                " make it smaller, or choose another topology=OPTION"
            )


def check_corpus(job: TrainJob, directory: Path) -> Corpus:
    """Open the corpus, checking that its tokenizer, its sources and their sizes fit the model and the blend.

    If the run in `directory` is to begin with the weights of start_from, that model is checked first.
    """
    begins_with_weights = job.start_from is not None and reading.peek(directory, job.resume) is None
    if begins_with_weights:
        start_from.check_model(job)
    if not Path(job.data.dir).is_dir():
        raise ValueError(f"data.dir ({job.data.dir}): no such directory; make it with `nemotron4 prepare`")
    corpus = Corpus.open(job.data.dir)
    if begins_with_weights:
        start_from.Pieces.of(job, corpus)
    if job.data.verify:
        corpus.verify()
    if corpus.vocab_size > job.model.vocab_size:
        raise ValueError(
            f"model.vocab_size ({job.model.vocab_size}): smaller than the {corpus.vocab_size} pieces of the tokenizer"
            f" in {job.data.dir}; raise it or prepare the corpus with a smaller tokenizer.vocab_size"
        )
    if not corpus.heldout_names:
        raise ValueError(
            f"data.dir ({job.data.dir}): has no held-out text to validate on; prepare it again with a larger held-out"
            " share, or adopt held-out shards with it"
        )
    check_domains(corpus)
    phase_weights(job.blend, Timeline(job.schedule).blend_phases, corpus.num_train_tokens)
    return corpus


def check_evaluation(job: TrainJob, corpus: Corpus) -> None:
    """Check that evaluations during training have their items, and that these fit; say what they leave out."""
    if not job.evaluation.is_on:
        return
    tasks = open_tasks(job.evaluation, corpus.tokenizer, job.model.max_sequence_length)
    for names, measured in (
        (tasks.only_gold, "only the bits per byte of the right answers"),
        (tasks.not_measured, "nothing, since they come without right answers"),
    ):
        if names:
            print(
                f"evaluation: no text is generated during training; of {', '.join(names)}: {measured}", file=sys.stderr
            )


def check_checkpoint(job: TrainJob, corpus: Corpus, directory: Path, timeline: Timeline) -> int:
    """Check that the run's checkpoint has this model and corpus; if given by path, this model, tokenizer and timeline.

    Returns the steps it has done. Reads only small files: the workers verify the rest.
    """
    found = reading.peek(directory, job.resume)
    if found is None:
        return 0
    found.check_model(job.model)
    path, ledger = found.directory, found.ledger
    name, read, here = "tokenizer", ledger.tokenizer, corpus.tokenizer_digest
    if job.resume == "auto" and ledger.tokenizer == corpus.tokenizer_digest:
        name, read, here = "corpus", ledger.corpus, corpus.digest
    if read != here:
        raise ValueError(
            f"data.dir ({job.data.dir}): digest of the {name} is {here[:12]}, but {path} was trained with "
            f"{read[:12]}; restore that corpus, or start over with resume=never"
        )
    if name == "corpus" and ledger.manifest not in (None, corpus.manifest_digest):
        print(
            f"data.dir ({job.data.dir}): its tokens are those that {path} was trained with, but its"
            " manifest differs in documents or counts; see `nemotron4 data verify`",
            file=sys.stderr,
        )
    if job.resume != "auto" or job.run.allow_changed:
        _check_position(path, found.step, ledger.tokens, timeline)
    return found.step


def _check_position(path: Path, step: int, tokens: int, timeline: Timeline) -> None:
    """Check that the checkpoint lies on this timeline, before its end, so that no sample is repeated or skipped."""
    if step >= timeline.num_steps:
        raise ValueError(
            f"resume ({path}): has done {step:,} steps, and this run ends after {timeline.num_steps:,};"
            " append phases to its schedule, as in 'schedule=[FIRST,SECOND]', or raise trainer.max_steps"
        )
    here = timeline.tokens_before(step)
    if tokens != here:
        raise ValueError(
            f"resume ({path}): has read {tokens:,} tokens in {step:,} steps, but the first {step:,} steps of this"
            f" schedule read {here:,}; start the schedule with the phases that the checkpoint was trained on"
        )
