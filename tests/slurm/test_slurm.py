"""Runs on a real Slurm: two nodes, signals, requeues, a dead node, a campaign, and what is refused.

The slow ones are left to `nox -s slurm`.
"""

import csv
import subprocess
import time
from pathlib import Path

import pytest
from slurm_jobs import ON_SLURM, SMOKE, logs, until
from training_process import metric_rows
from verb import nemotron4

from nemotron4_train.launching.slurm import client
from nemotron4_train.launching.slurm.attempt import read_attempts
from nemotron4_train.launching.slurm.submit import jobs_in_queue
from nemotron4_train.run_directory import newest_step, read_record

pytestmark = pytest.mark.timeout(420)
TWO_NODES = ("topology=cpu_2x2", "topology.num_nodes=2", "trainer.save_interval_steps=5")


@pytest.fixture(scope="module")
def undisturbed(workspace) -> list[dict[str, str]]:
    """Rows of metrics of the run of TWO_NODES, by the local launcher."""
    nemotron4("train", *SMOKE, "topology=cpu_2x2", "run.name=undisturbed", "launcher.num_threads=1", cwd=workspace)
    return metric_rows(workspace / "runs" / "undisturbed" / "latest")


def submitted(workspace: Path, name: str, *overrides: str) -> Path:
    nemotron4("train", *SMOKE, *ON_SLURM, f"run.name={name}", *overrides, cwd=workspace)
    return (workspace / "runs" / name / "latest").resolve()


def state(run: Path) -> str:
    record = read_record(run)
    return "" if record is None else record.state


def job_id(cluster, run: Path) -> str:
    return cluster.client("squeue", "--noheader", "--format=%i|%k").split("|")[0]


def finished(run: Path) -> None:
    """Its jobs have left the queue, and it is complete."""
    until(lambda: state(run) in ("complete", "failed", "stopped") and not jobs_in_queue(run, client.queue()))
    assert state(run) == "complete", logs(run)


def test_two_nodes_train_and_a_signal_saves_requeues_and_goes_on_exactly(cluster, workspace, undisturbed):
    run = submitted(workspace, "signalled", *TWO_NODES, "trainer.save_interval_steps=1000")
    until(lambda: len(metric_rows(run)) > 3)
    cluster.client("scancel", "--signal=USR1", job_id(cluster, run))
    finished(run)
    first, second = read_attempts(run)
    assert (first.restart, second.restart) == (0, 1)
    assert second.step > 3  # it saved where it was: nothing is done twice
    assert metric_rows(run) == undisturbed
    assert "health check: 4 ranks on 2 nodes" in logs(run)
    assert (run / "report.html").is_file()


@pytest.mark.slow
def test_a_requeue_goes_on_exactly(cluster, workspace, undisturbed):
    run = submitted(workspace, "requeued", *TWO_NODES)
    until(lambda: newest_step(run) > 0)
    cluster.client("scontrol", "requeue", job_id(cluster, run))
    finished(run)
    assert [attempt.restart for attempt in read_attempts(run)] == [0, 1]
    assert metric_rows(run) == undisturbed


@pytest.mark.slow
def test_the_time_limit_is_no_end(cluster, workspace):
    # A minute is the least that Slurm takes; it may look at the clock, and send the signal, up to a minute early.
    run = submitted(
        workspace, "limited", "schedule.phases.continued.tokens=2_000_000", "blend.max_epochs=1000",
        "launcher.wall_time_minutes=2", "launcher.signal_lead_seconds=60", "trainer.save_interval_steps=100_000",
    )  # fmt: skip
    until(lambda: len(read_attempts(run)) == 3 and newest_step(run) < len(metric_rows(run)), 400)
    nemotron4("cancel", f"run={run}", cwd=workspace)
    until(lambda: not jobs_in_queue(run, client.queue()))
    assert [attempt.step for attempt in read_attempts(run)] == sorted({a.step for a in read_attempts(run)})
    assert [int(row["step"]) for row in metric_rows(run)] == list(range(1, len(metric_rows(run)) + 1))


@pytest.mark.slow
def test_a_dead_node_is_survived(cluster, workspace, undisturbed):
    run = submitted(workspace, "bereft", *TWO_NODES)
    until(lambda: newest_step(run) > 0)
    cluster.kill_node("n2")
    until(lambda: "down" in cluster.client("sinfo", "--noheader", "--nodes=n2", "--format=%T"))
    cluster.start_node("n2")
    finished(run)
    assert [attempt.restart for attempt in read_attempts(run)] == [0, 1]
    assert metric_rows(run) == undisturbed


@pytest.mark.slow
def test_requeues_without_progress_come_to_an_end(cluster, workspace):
    run = submitted(
        workspace, "stuck", "launcher.max_requeues_without_progress=1", "trainer.save_interval_steps=1000",
        "trainer.max_steps=25",
    )  # fmt: skip

    def is_over():
        return not jobs_in_queue(run, client.queue())

    for number in range(1, 6):  # each is queued again before it can train much, but saves what it has
        until(lambda number=number: len(read_attempts(run)) == number or is_over())
        if not is_over():
            cluster.client("scontrol", "requeue", job_id(cluster, run))
    until(is_over)
    starts = [attempt.step for attempt in read_attempts(run)]
    record = read_record(run)
    assert starts.count(starts[-1]) == 3
    assert record.error == (
        f"requeued 1 times without a checkpoint after step {starts[-1]}; see {run}/slurm, then start it again"
    )


def test_a_campaign_runs_to_its_evaluation(cluster, workspace):
    run = submitted(
        workspace, "campaign", "+topology@schedule.phases.warmup.topology=cpu_1x1",
        "+topology@schedule.phases.main.topology=cpu_2x1", "+topology@schedule.phases.continued.topology=cpu_1x1",
        "schedule.phases.main.topology.num_nodes=2",
        "afterwards=['export run={run}', 'eval model_dir={run}/export data.dir={data} suite=bits_per_byte']",
    )  # fmt: skip
    until(lambda: (run / "eval.json").is_file() or state(run) == "failed")
    assert state(run) == "complete", logs(run)
    legs = [(attempt.leg, attempt.step) for attempt in read_attempts(run)]
    assert legs == [(0, 0), (1, 10), (2, 20), (None, 30)]
    assert [int(row["step"]) for row in metric_rows(run)] == list(range(1, 31))
    assert "complete" in nemotron4("status", f"run={run}", cwd=workspace).stdout


def test_a_second_launch_of_a_queued_run_submits_nothing(cluster, workspace):
    run = submitted(workspace, "twice", "+launcher.sbatch_options=['--begin=now+1hour']")
    again = nemotron4("train", *SMOKE, *ON_SLURM, f"run.dir={run}", cwd=workspace, check=False)
    # Only pending ones: a job of an earlier test may still be ending.
    queued = cluster.client("squeue", "--noheader", "--states=pending", "--format=%i").split()
    assert again.returncode == 2
    assert again.stderr == (
        f"nemotron4 train: run.dir ({run}): its jobs are already in the queue: {queued[0]} (pending); nothing was"
        f" submitted; follow them with `nemotron4 status run={run}`, stop them with `nemotron4 cancel run={run}`\n"
    )
    assert len(queued) == 1
    nemotron4("cancel", f"run={run}", cwd=workspace)
    until(lambda: not cluster.client("squeue", "--noheader").strip())


@pytest.mark.slow
def test_cancelling_saves_and_does_not_requeue(cluster, workspace):
    run = submitted(workspace, "cancelled", *TWO_NODES, "trainer.save_interval_steps=1000")
    until(lambda: len(metric_rows(run)) > 3)
    nemotron4("cancel", f"run={run}", cwd=workspace)
    until(lambda: not cluster.client("squeue", "--noheader").strip())
    assert state(run) == "stopped"
    assert newest_step(run) > 3
    time.sleep(3)
    assert not cluster.client("squeue", "--noheader").strip()


@pytest.mark.slow
def test_a_sweep_of_six_jobs_ends_with_the_one_that_fails(cluster, workspace):
    sweep = (
        "train", *SMOKE, *ON_SLURM, "run.name=swept", "trainer.max_steps=12", "trainer.spike_sigma=null",
        "optimizer.lr=1e-4,1e-3,1e33", "seed=1,2", "trainer.max_skipped_steps_in_a_row=3", "-m",
    )  # fmt: skip
    done = nemotron4(*sweep, cwd=workspace, check=False)
    (table,) = (workspace / "runs" / "swept").glob("sweep_*/sweep.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert done.returncode == 1, done.stderr
    assert [row["state"] for row in rows] == ["complete"] * 4 + ["failed"] * 2, done.stderr
    assert "3 steps in a row" in rows[-1]["error"]
    assert len(list(table.parent.glob("slurm/array-*.sbatch"))) == 1
    attempts = {path: path.read_text() for path in table.parent.glob("job_*/slurm/attempts.jsonl")}
    assert len(attempts) == 6
    again = nemotron4(*sweep, cwd=workspace, check=False)
    assert again.stderr.count("already complete") == 4
    changed = [path for path, text in attempts.items() if path.read_text() != text]
    assert len(changed) == 2  # those that failed


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("launcher.partition=gpu", "launcher.partition (gpu): Slurm has no such partition; it has: main, big"),
        (
            "launcher.wall_time_minutes=61",
            "launcher.wall_time_minutes (61): partition main allows 60; request less, since a run continues in its next"
            " job, or choose another launcher.partition",
        ),
    ],
)
def test_what_the_cluster_cannot_do_is_refused(cluster, workspace, override, said):
    done = nemotron4("train", *SMOKE, *ON_SLURM, "run.name=refused", override, cwd=workspace, check=False)
    assert (done.returncode, done.stderr) == (2, f"nemotron4 train: {said}\n")
    assert not (workspace / "runs" / "refused").exists()


@pytest.mark.parametrize("num_nodes", [96, 192, 288])
def test_slurm_accepts_the_15b_on_its_nodes(cluster, workspace, tmp_path, num_nodes):
    from nemotron4_train.launcher_config import LauncherConfig
    from nemotron4_train.launching.slurm.script import leg_script
    from nemotron4_train.topology import Device, TopologyConfig

    topology = TopologyConfig(device=Device.cuda, num_nodes=num_nodes, shard=num_nodes, tensor=8)
    config = LauncherConfig(partition="big", wall_time_minutes=2_880, cpus_per_task=14, memory_per_node="0")
    script = tmp_path / "job.sbatch"
    script.write_text(leg_script(config, topology, tmp_path, "warmup", 0))
    tested = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr
    assert f"using {112 * num_nodes} processors on nodes h[001-{num_nodes:03d}] in partition big" in tested.stderr
