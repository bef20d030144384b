"""What the processes of test_dry_run.py and test_memory.py do; its own file so that forked processes can import it."""

import os
import signal
from collections.abc import Sequence

from nemotron4_train.job import TrainJob
from nemotron4_train.plan.dry_run import DryRun
from nemotron4_train.schedule import Phase


def real_steps(rank: int, world_size: int, cases: Sequence[tuple[TrainJob, Phase]]) -> list[DryRun]:
    """A real step of this rank for each case, counted as the dry run counts a fake one."""
    from torch.distributed.device_mesh import init_device_mesh

    from nemotron4_train.plan.fake_step import count_step

    found = []
    for job, phase in cases:
        shape = job.topology.replicate, job.topology.shard, job.topology.tensor
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard", "tensor"))
        found.append(count_step(job, phase, mesh, is_fake=False))
    return found


def fake_steps(cases: Sequence[tuple[TrainJob, Phase]]) -> list[DryRun]:
    """A fake step for each case, in a process that may become a fake rank."""
    from torch.distributed import destroy_process_group, is_initialized

    from nemotron4_train.plan.fake_step import fake_step

    found = []
    for case in cases:
        found.append(fake_step(*case))
        if is_initialized():  # a rank that is alone in fp32 has no group
            destroy_process_group()
    return found


def killed_step(job: TrainJob, phase: Phase) -> None:
    """As the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
