"""Machines: what is wrong with a file is one line; a GPU's name decides between the named machine and the real one."""

import re

import pytest
import yaml

from nemotron4_train.machine import load_machine, machine_in_use, machine_names, machine_of
from nemotron4_train.topology import TopologyConfig

OWN = {
    "cuda_names": [],
    "peak_teraflops": {"fp32": 1, "bf16": 2.5},
    "memory_gigabytes": 24,
    "memory_gigabytes_per_second": 1_000,
    "devices_per_node": 4,
    "node_link_gigabytes_per_second": 32,
    "network_gigabytes_per_second": 1.25,
    "multiprocessors": 64,
}


def written(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_an_own_file_is_a_machine(tmp_path):
    machine = load_machine(written(tmp_path, OWN))
    assert (machine.name, machine.memory_bytes, machine.peak_teraflops["bf16"]) == ("mine", 24_000_000_000, 2.5)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("[", "is not YAML (while parsing"),
        ("cpu", "is not a mapping; see the files of conf/machine"),
        (OWN | {"memory": 3}, "memory is no key of a machine; nearest: memory_gigabytes, "),
        ({"cuda_names": []}, "lacks peak_teraflops, memory_gigabytes, memory_gigabytes_per_second, devices_per_node,"),
        (OWN | {"cuda_names": "A"}, "cuda_names is 'A'; must be a list of names, [] if CUDA has none"),
        (OWN | {"peak_teraflops": {"bf16": 1}}, "peak_teraflops is {'bf16': 1}; must have a figure for fp32 and bf16"),
        (OWN | {"memory_gigabytes": "80 GB"}, "memory_gigabytes is '80 GB'; must be a number above 0"),
        (OWN | {"memory_gigabytes": -80}, "memory_gigabytes is -80; must be a number above 0"),
        (OWN | {"memory_gigabytes": float("nan")}, "memory_gigabytes is nan; must be a number above 0"),
        (OWN | {"multiprocessors": True}, "multiprocessors is True; must be a number above 0"),
        (OWN | {"devices_per_node": 1.5}, "devices_per_node is 1.5; must be a whole number"),
        (OWN | {"peak_teraflops": {"fp32": 1, "bf16": 0}}, "peak_teraflops.bf16 is 0; must be a number above 0"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, content, rule):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(f"topology.machine ({path}): {rule}")) as caught:
        load_machine(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_machine_is_answered_with_the_nearest(tmp_path):
    near = "nearest: h100_sxm, h200_sxm, h100_nvl"
    with pytest.raises(ValueError) as caught:
        TopologyConfig(machine="h100_smx")
    assert str(caught.value) == (
        f"topology.machine (h100_smx): is no file of conf/machine; {near}, or give the path of a file like them, *.yaml"
    )
    missing = str(tmp_path / "h100_smx.yaml")
    assert TopologyConfig(machine=missing).machine == missing, "run directories are read where the file is not"
    with pytest.raises(ValueError) as caught:
        load_machine(missing)
    assert str(caught.value) == (
        f"topology.machine ({missing}): cannot be read (No such file or directory); of conf/machine, {near}"
    )
    with pytest.raises(ValueError, match=f"nearest: {', '.join(machine_names())}, or"):
        TopologyConfig(machine="")


def test_variants_have_peaks_of_their_own_and_slices_none():
    names = ("H100 80GB HBM3", "H100 NVL", "H100 PCIe", "A100 80GB PCIe")
    machines = [machine_of(f"NVIDIA {name}") for name in names]
    assert len({machine.peak_teraflops["bf16"] for machine in machines}) == 4
    assert machine_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None


def test_the_gpu_s_name_decides_what_a_job_runs_on(tmp_path):
    h100, h200 = load_machine("h100_sxm"), load_machine("h200_sxm")
    assert machine_in_use(None, None) is None
    assert machine_in_use("h100_sxm", None) == machine_in_use("h100_sxm", "NVIDIA H100 80GB HBM3") == h100
    assert machine_in_use("h100_sxm", "NVIDIA H200") == machine_in_use(None, "NVIDIA H200") == h200
    assert machine_in_use("h100_sxm", "NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None
    own = written(tmp_path, OWN)
    assert machine_in_use(own, "NVIDIA L40S") == load_machine(own), "it names no GPU, so it is for any"
