"""Start a run: check everything on this machine, make the run directory, start the workers, say how it ended.

One rank trains in this process. Several start through torch's elastic launcher, as one clean process tree a run, each
worker reading job.yaml; under an outer launcher (RANK is set) this process is one of the workers already.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nemotron4_data import Corpus
from nemotron4_train.job import TrainJob
from nemotron4_train.preflight import check_machine, check_position
from nemotron4_train.run_directory import RunRecord, choose_directory, create, exclusive, read_record, write_record
from nemotron4_train.schedule import Timeline


def launch(job: TrainJob, job_yaml: str) -> float | None:
    """Run the job to its end; returns the final held-out bits per byte.

    Raises ValueError for what the user can mend, RuntimeError when a worker failed, SystemExit(75 or 130) when the run
    was stopped by a signal after saving.
    """
    timeline = Timeline(job.schedule, job.trainer.max_steps)
    check_machine(job)
    corpus = check_corpus(job)
    directory = choose_directory(job, timeline.num_steps)
    check_checkpoint(job, corpus, directory)
    check_position(job, timeline)
    with exclusive(directory):
        create(directory, job, job_yaml, timeline.num_steps)
        print(f"run directory: {directory}", file=sys.stderr, flush=True)
        try:
            if job.topology.num_ranks == 1:
                _set_threads(job)
                run_worker(job, directory)
            else:
                _launch_workers(job, directory)
        except BaseException as error:
            _record_failure(directory, error)
            raise
    record = read_record(directory)
    assert record is not None
    return record.objective


def check_corpus(job: TrainJob) -> Corpus:
    """The corpus; it exists, and its tokenizer, its sources and their sizes fit the model and the blend."""
    from nemotron4_data.blend import phase_weights

    if not Path(job.data.dir).is_dir():
        raise ValueError(f"data.dir ({job.data.dir}): no such directory; make it with `nemotron4 prepare`")
    corpus = Corpus.open(job.data.dir, verify=job.data.verify)
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
    phase_weights(job.blend, Timeline(job.schedule).blend_phases, corpus.num_train_tokens)
    return corpus


def check_checkpoint(job: TrainJob, corpus: Corpus, directory: Path) -> None:
    """What the run goes on from read this corpus; one given by its path, perhaps another with the same tokenizer."""
    from nemotron4_train import checkpoint

    if job.resume == "never":
        return
    if job.resume == "auto":
        found = checkpoint.list_checkpoints(directory)[-1:]
    else:
        found = [Path(job.resume)]
        checkpoint.check_complete(found[0])
    for path in found:
        ledger = checkpoint.ledger(path)
        name, read, here = "tokenizer", ledger.tokenizer, corpus.tokenizer_digest
        if job.resume == "auto" and ledger.tokenizer == corpus.tokenizer_digest:
            name, read, here = "corpus", ledger.corpus, corpus.digest
        if read != here:
            raise ValueError(
                f"data.dir ({job.data.dir}): digest of the {name} is {here[:12]}, but {path} was trained with "
                f"{read[:12]}: put that corpus back, or start anew with resume=never"
            )


def run_worker(job: TrainJob, directory: Path) -> None:
    """Train as one rank; rank 0 records how it ended. Raises SystemExit when stopped by a signal."""
    from nemotron4_train.lightning.fit import fit, rank, stop_status
    from nemotron4_train.report import write_report

    result = fit(job, directory)
    if rank() == 0:
        record = read_record(directory)
        assert record is not None
        record.state = "complete" if result.stopped_by is None else "stopped"
        record.step = result.step
        record.objective = result.objective if result.objective is not None else record.objective
        write_record(directory, record)
        write_report(directory, job)
    if result.stopped_by is not None:
        print(f"stopped after step {result.step}, checkpoint saved; run the same command to go on", file=sys.stderr)
        raise SystemExit(stop_status(result.stopped_by))


def _launch_workers(job: TrainJob, directory: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if "RANK" in os.environ:
        raise ValueError("RANK is set: start workers that a launcher made with `python -m nemotron4_train.cli RUN_DIR`")
    if job.topology.num_nodes > 1:
        raise ValueError(
            f"topology.num_nodes ({job.topology.num_nodes}): launcher=local starts the ranks of one machine only"
        )
    _set_threads(job)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.topology.num_ranks,
        run_id=directory.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "nemotron4_train.cli", str(directory))
    except ChildFailedError as error:
        record = read_record(directory)
        statuses = [failure.exitcode for failure in error.failures.values()]
        if record is not None and record.state == "stopped":
            raise SystemExit(max(statuses)) from error
        if 2 in statuses:
            raise ValueError(f"{directory}: a worker refused its input; its own line is above") from error
        causes = [f"rank {rank} exited with {failure.exitcode}" for rank, failure in error.failures.items()]
        raise RuntimeError(f"{directory}: a worker failed: {'; '.join(causes)}; its own error is above") from error


def _set_threads(job: TrainJob) -> None:
    """Share the cores among this machine's ranks, unless told otherwise: oversubscribed OpenMP pools fight."""
    import torch

    cores = len(os.sched_getaffinity(0))
    threads = job.launcher.num_threads or max(1, cores // job.topology.num_ranks_per_node)
    if job.topology.num_ranks > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    else:
        torch.set_num_threads(threads)


def _record_failure(directory: Path, error: BaseException) -> None:
    record = read_record(directory) or RunRecord(job_digest="")
    if isinstance(error, SystemExit):
        return
    record.state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
    record.error = " ".join(str(error).split()) or type(error).__name__
    write_record(directory, record)
