"""What the processes of test_dry_run.py do; its own file so that forked processes can import it."""

import os
import signal

from nemotron4_train.job import TrainJob
from nemotron4_train.plan.dry_run import DryRun
from nemotron4_train.schedule import Phase


def real_step(rank: int, world_size: int, job: TrainJob, phase: Phase) -> DryRun:
    """A real step of this rank, counted as the dry run counts a fake one."""
    from torch.distributed.device_mesh import init_device_mesh

    from nemotron4_train.plan.fake_step import count_step

    shape = job.topology.replicate, job.topology.shard, job.topology.tensor
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard", "tensor"))
    return count_step(job, phase, mesh, is_fake=False)


def fake_step_of(case: tuple[TrainJob, Phase]) -> DryRun:
    """A fake step, in a process that may become a fake rank."""
    from nemotron4_train.plan.fake_step import fake_step

    return fake_step(*case)


def killed_step(job: TrainJob, phase: Phase) -> None:
    """As the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
