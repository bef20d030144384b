"""What is handed to Slurm, and what is refused before: no Slurm is needed for it."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from nemotron4_train.health_check import RankHealth, unhealthy
from nemotron4_train.launcher_config import LauncherConfig
from nemotron4_train.launching.slurm import client
from nemotron4_train.launching.slurm.script import afterwards_script, leg_script
from nemotron4_train.topology import Device, TopologyConfig


def directives(script):
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    return [word for line in lines for word in shlex.split(line)]


def check_shell(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_script_asks_for_what_the_topology_and_the_launcher_say(tmp_path):
    config = LauncherConfig(
        partition="gpu",
        account="lab",
        wall_time_minutes=1_440,
        cpus_per_task=14,
        memory_per_node="0",
        exclude=["n7", "n9"],
        setup=["module load cuda"],
        environment={"NOTE": "it's $HOME"},
        container_image="image.sqsh",
        container_mounts=["/data:/data"],
        python="python3",
        sbatch_options=["--reservation=ours"],
    )
    topology = TopologyConfig(device=Device.cuda, num_nodes=96, shard=96, tensor=8)
    run = tmp_path / "a run"
    script = leg_script(config, topology, run, "warmup", 0)
    check_shell(script)
    asked = directives(script)
    for option in (
        *("--nodes=96", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=14", "--mem=0", "--exclusive"),
        *("--partition=gpu", "--account=lab", "--time=1440", "--exclude=n7,n9", "--signal=USR1@300", "--requeue"),
        *(f"--output={run}/slurm/%j.log", f"--comment=nemotron4:{run}", "--reservation=ours"),
    ):
        assert option in asked
    lines = script.splitlines()
    assert "module load cuda" in lines
    assert f"RUN='{run}'" in lines
    said = subprocess.run(
        ["bash", "-c", "\n".join(line for line in lines if line.startswith("export NOTE")) + "; echo $NOTE"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "it's $HOME\n"
    (srun,) = [line for line in lines if line.startswith("srun")]
    workdir = f"--container-workdir={Path.cwd()}"
    assert (
        f"--container-image=image.sqsh --no-container-mount-home {workdir} --container-mounts=/data:/data python3 -m"
        in srun
    )


def test_what_is_written_is_what_the_shell_and_sbatch_read(tmp_path):
    note = "one\n\n\x0btwo ${HOME} %j"
    config = LauncherConfig(environment={"NOTE": note}, setup=["cat <<END\n\nx\nEND"])
    script = leg_script(config, TopologyConfig(), tmp_path / "100%j", "main", 0)
    assert f"--output={tmp_path}/100%%j/slurm/%j.log" in directives(script)
    assert "\ncat <<END\n\nx\nEND\n" in script
    (export,) = re.findall(r"^export NOTE='[^']*'$", script, re.MULTILINE)
    said = subprocess.run(["bash", "-c", f'{export}; printf %s "$NOTE"'], capture_output=True, text=True, check=True)
    assert said.stdout == note


def test_an_array_gives_each_task_its_directory(tmp_path):
    runs = [tmp_path / "sweep" / name for name in ("job 0", "job_1")]
    script = leg_script(LauncherConfig(), TopologyConfig(), runs, "sweep", 0)
    check_shell(script)
    lines = [line for line in script.splitlines() if line.startswith("RUN")]
    said = subprocess.run(
        ["bash", "-c", "\n".join(["SLURM_ARRAY_TASK_ID=0", *lines, 'echo "$RUN"'])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == f"{runs[0]}\n"


def test_what_follows_a_run_is_one_job_of_one_device(tmp_path):
    script = afterwards_script(LauncherConfig(), Device.cuda, tmp_path, [("nemotron4", "export", "run=a b")])
    check_shell(script)
    assert {"--nodes=1", "--ntasks=1", "--gpus-per-node=1"} <= set(directives(script))
    assert "nemotron4 export 'run=a b'" in script.splitlines()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"signal_lead_seconds": 60, "wall_time_minutes": 1},
         "launcher.signal_lead_seconds (60): must be less than launcher.wall_time_minutes = 1"),
        ({"environment": {"A B": "1"}}, "launcher.environment (A B): not a variable's name"),
        ({"sbatch_options": ["nice"]}, "launcher.sbatch_options (nice): must look like --name=value"),
        ({"partition": "a b"}, "launcher.partition (a b): must not contain spaces"),
        ({"max_jobs_at_once": 0}, "launcher.max_jobs_at_once (0): must be at least 1"),
        ({"health_check_max_slowdown": 1.0}, "launcher.health_check_max_slowdown (1.0): must be above 1"),
    ],
)  # fmt: skip
def test_what_no_launcher_can_do_is_refused(fields, said):
    with pytest.raises(ValueError) as error:
        LauncherConfig(**fields)
    assert str(error.value) == said


def test_without_slurm_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError) as error:
        client.check_cluster(LauncherConfig())
    assert str(error.value) == (
        "launcher.kind (slurm): sbatch is not on this machine's PATH; submit from a login node,"
        " see the script with launcher.dry_run=true, or use launcher=local"
    )


@pytest.mark.parametrize(
    ("text", "minutes"), [("30:00", 30), ("1:00:00", 60), ("2-00:00:00", 2_880), ("infinite", None)]
)
def test_time_limits_are_read_as_slurm_writes_them(text, minutes):
    assert client._minutes(text) == minutes


def test_a_bad_rank_is_named_with_its_node():
    def rank(host, **changes):
        good = {"teraflops": 600.0, "product_is_right": True, "gigabytes_per_second": 100.0, "sum_is_right": True}
        return RankHealth(host=host, **(good | changes))

    assert unhealthy([rank("n1"), rank("n2", teraflops=300.0), rank("n3")], max_slowdown=3.0) == []
    assert unhealthy(
        [rank("n1"), rank("n2", teraflops=100.0), rank("n3", product_is_right=False), rank("n4", sum_is_right=False)],
        max_slowdown=3.0,
    ) == [
        "n2: rank 1 does 100 TFLOP/s, the median is 600",
        "n3: rank 2 computes a matrix product wrongly",
        "n4: rank 3 received a wrong sum",
    ]


def test_the_template_names_no_blank_that_is_not_filled():
    template = Path(__file__).parents[3] / "launchers" / "slurm" / "job.sbatch"
    script = leg_script(LauncherConfig(), TopologyConfig(), Path("run"), "warmup", 0)
    assert "@{" in template.read_text()
    assert "@{" not in script
