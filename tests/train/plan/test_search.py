import json
import re
import shlex
from dataclasses import replace
from itertools import product

import pytest
from composed import composed, planned, status_of
from rich.console import Console

from nemotron4_model.config import Recompute
from nemotron4_train.estimates.layout import layout_of
from nemotron4_train.estimates.memory import memory
from nemotron4_train.estimates.step_time import step_time
from nemotron4_train.job import OptimizerKind, Precision, PrecisionConfig
from nemotron4_train.machine import load_machine
from nemotron4_train.plan.estimate import estimate
from nemotron4_train.plan.plan_job import PlanConfig
from nemotron4_train.plan.search import MAX_MICRO_BATCH, precisions, search
from nemotron4_train.plan.search_tables import lines, overrides, print_search, rows, search_json
from nemotron4_train.topology import Device, TopologyConfig


@pytest.fixture(scope="module")
def paper():
    return planned("nemotron4_15b")


@pytest.fixture(scope="module")
def campaign():
    """Its longest leg has a topology of its own: 2,304 GPUs for a batch of 1,152."""
    return asking(planned("nemotron4_15b_campaign"))


def asking(job, gpus=None, batch=None, machine="h100_sxm"):
    """A job that asks for layouts of a machine's GPUs and of a batch, without a topology of them."""
    return replace(job, plan=PlanConfig(search=True, gpus=gpus, machine=machine, global_batch_size=batch))


@pytest.fixture(scope="module")
def on_2304(campaign):
    return search(campaign)


@pytest.fixture(scope="module")
def on_64(paper):
    return search(asking(paper, 64, 256))


@pytest.fixture(scope="module")
def on_2048(paper):
    return search(asking(paper, 2048, 8192))


@pytest.fixture(scope="module")
def small():
    """1.75B on four GPUs, in phases of two batches; some layouts do not fit."""
    words = ("plan.search=true", "plan.gpus=4", "plan.machine=h100_sxm")
    return search(composed("plan", "experiment=h100_1_75b", *words))


def printed(found):
    console = Console(width=150)
    with console.capture() as capture:
        print_search(console, found)
    return capture.get()


def key(topology, precision):
    mesh = topology.replicate, topology.shard, topology.tensor
    freed = topology.reshard_after_forward, topology.reduce_each_micro_batch
    return *mesh, topology.micro_batch_size, topology.recompute, *freed, precision


def accepted_by_the_job(job, topology, precision):
    try:
        replace(job, topology=topology, precision=replace(job.precision, compute=precision))
    except ValueError:
        return False
    return True


def test_layouts_are_all_that_the_job_accepts(small):
    expected = set()
    for replicate, shard, tensor, micro in product((1, 2, 4), (1, 2, 4), (1, 2, 4), range(1, MAX_MICRO_BATCH + 1)):
        # A micro-batch larger than a rank's share of the largest batch is that share.
        if replicate * shard * tensor != 4 or micro > 128 // (replicate * shard):
            continue
        topology = replace(
            small.question.topology,
            replicate=replicate,
            shard=shard,
            tensor=tensor,
            micro_batch_size=micro,
            compile=True,
        )
        for precision in (Precision.bf16, Precision.fp8):
            if accepted_by_the_job(small.question.job, topology, precision):
                # Without shards there is nothing to gather; in one micro-batch, nothing to sum.
                reshards = (False, True) if shard > 1 else (True,)
                reduces = (False, True) if shard > 1 and micro < 128 // (replicate * shard) else (False,)
                for recompute, reshard, reduce in product(Recompute, reshards, reduces):
                    freed = {"reshard_after_forward": reshard, "reduce_each_micro_batch": reduce}
                    expected.add(key(replace(topology, recompute=recompute, **freed), precision))
    found = [key(one.topology, one.precision) for one in (*small.ranked, *small.too_large)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_those_that_fit_are_ranked_by_the_time_of_all_phases(small):
    question = small.question
    assert list(question.steps) == [(128, 4096), (64, 4096)]
    assert small.ranked
    assert small.too_large
    assert all(one.memory.total <= question.machine.memory_bytes for one in small.ranked)
    assert all(one.memory.total > question.machine.memory_bytes for one in small.too_large)
    for found in (small.ranked, small.too_large):
        times = [one.seconds for one in found]
        assert times == pytest.approx(sorted(times), rel=1e-8)
    one = small.ranked[0]
    of_each = {phase.global_batch_size: predicted(question.job, phase, one) for phase in question.phases.values()}
    steps = {batch: number for (batch, _), number in question.steps.items()}
    assert one.seconds == pytest.approx(sum(steps[batch] * time for batch, (time, _) in of_each.items()))
    assert one.memory.total == max(needed for _, needed in of_each.values())


def test_steps_are_those_of_the_timeline(small):
    timeline = {plan.name: plan.num_steps for plan in small.question.job.timeline().phases}
    assert sum(small.question.steps.values()) == sum(timeline[name] for name in small.question.phases)


def test_the_nearest_that_is_too_large_is_faster_than_all_that_fit(small):
    for tensor in (1, 2, 4):
        best, found = small.best(tensor, Precision.bf16), small.nearest_too_large(tensor, Precision.bf16)
        slower = [one for one in small.too_large if one.topology.tensor == tensor and one.seconds >= best.seconds]
        assert found is None or (found.seconds < best.seconds and found not in slower)
    assert small.nearest_too_large(1, Precision.bf16) is not None


def test_the_leg_that_computes_longest_is_searched(paper):
    """Not the one with most FLOPs: eight times the devices take less time for twice the tokens."""
    phase = paper.schedule.phases["warmup"]
    few, many = (TopologyConfig(shard=ranks, machine="h100_sxm", device=Device.cuda) for ranks in (8, 64))
    phases = {
        "few": replace(phase, topology=few, global_batch_size=64, tokens=2**30),
        "many": replace(phase, topology=many, global_batch_size=64, tokens=2**31),
    }
    job = replace(paper, topology=few, schedule=replace(paper.schedule, phases=phases))
    assert list(search(asking(job, machine=None)).question.phases) == ["few"]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"vocab_size": 32_001}, "does not divide model.vocab_size = 32,001"),
        ({"num_key_value_heads": 1}, "does not divide model.num_key_value_heads = 1"),
    ],
)
def test_tensor_sizes_that_the_model_cannot_be_split_into(small, changes, rule):
    job = small.question.job
    found = search(asking(replace(job, model=replace(job.model, **changes)), 2, 8))
    assert found.refused == {rule: [2]}


def test_tensor_sizes_divide_sequences(small):
    job = small.question.job
    phases = {name: replace(phase, sequence_length=4_095) for name, phase in job.schedule.phases.items()}
    assert search(asking(replace(job, schedule=replace(job.schedule, phases=phases)), 2, 8)).refused == {
        "does not divide sequences of 4,095 tokens": [2]
    }


def test_another_machine_has_its_own_device_and_peak(paper):
    job = replace(paper, topology=replace(paper.topology, peak_teraflops=500.0))
    (topology,) = {one.topology.device: one.topology for one in search(asking(job, 1, 1, "cpu")).too_large}.values()
    assert (topology.device, topology.machine, topology.peak_teraflops) == (Device.cpu, "cpu", None)


def predicted(job, phase, found):
    """Seconds of a step of a phase, and bytes, by the estimates themselves."""
    layout = replace(layout_of(job, phase, found.topology), compute=found.precision)
    time = step_time(job.model, layout, load_machine("h100_sxm"))
    return time.total_seconds, memory(job.model, layout, job.optimizer.kind).total


def test_the_order_is_the_same_each_time(small):
    assert search(small.question.job) == small


@pytest.mark.parametrize("gpus", [64, 2048])
def test_nvidias_batch_of_4_sequences_a_gpu_wants_little_tensor_parallelism(on_64, on_2048, gpus):
    found = {64: on_64, 2048: on_2048}[gpus]
    assert found.question.steps.keys() == {(4 * gpus, 4096)}
    assert found.best().topology.tensor in (1, 2)
    assert found.best(precision=Precision.bf16).topology.tensor in (1, 2)
    of_8 = next(line for line in lines(found) if line.startswith("tensor 8, bf16:"))
    assert re.search(r" more: .*tensor communication \+", of_8)


def test_the_papers_batch_of_half_a_sequence_a_gpu_needs_tensor_parallelism(on_2304):
    assert on_2304.question.num_devices == 2304
    assert list(on_2304.question.steps) == [(1152, 4096)]
    assert on_2304.refused["1,152 sequences are no multiple of 2,304 data-parallel ranks"] == [1]
    assert {one.topology.tensor for one in on_2304.ranked} == {2, 4, 8}


def check_pasted(found, precision, experiment):
    """The printed words, composed, make the layout with its predicted figures."""
    best = found.best(precision=precision)
    job = composed("plan", experiment, *shlex.split(" ".join(overrides(found.question, best))))
    phase = job.schedule.phases["batch_1152"]
    topology = phase.topology or job.topology
    assert (topology, job.precision.compute) == (best.topology, precision)
    shown = next(leg.phases for leg in estimate(job).legs if leg.topology == topology)[-1]
    assert (shown.time, shown.mfu, shown.memory) == (best.step, best.mfu, best.memory)


def test_pasted_overrides_make_the_layout_that_was_found(on_64, on_2304):
    check_pasted(on_64, Precision.fp8, "experiment=nemotron4_15b")
    check_pasted(on_2304, Precision.bf16, "experiment=nemotron4_15b_campaign")


def test_a_job_is_searched_as_its_topology_stands(small):
    """One H100, as the experiment has it."""
    found = search(asking(small.question.job, machine=None))
    assert (found.question.num_devices, found.question.machine.name) == (1, "h100_sxm")
    changed = {word.partition("=")[0] for word in overrides(found.question, found.best())}
    assert not changed & {"topology.num_nodes", "topology.machine", "topology.device"}


def test_the_jobs_peak_and_optimiser_are_used(small):
    job = small.question.job
    half = replace(job, topology=replace(job.topology, peak_teraflops=989.4 / 2))
    muon = replace(job, optimizer=replace(job.optimizer, kind=OptimizerKind.muon))
    usual, of_half, of_muon = (search(asking(each, machine=None)).ranked for each in (job, half, muon))
    assert of_half[0].mfu == pytest.approx(2 * usual[0].mfu)
    by_layout = {key(one.topology, one.precision): one for one in of_muon}
    other = by_layout[key(usual[0].topology, usual[0].precision)]
    assert other.memory.host < usual[0].memory.host
    assert other.step.seconds["optimizer"] > usual[0].step.seconds["optimizer"]


def test_float8_only_where_the_machine_and_the_job_have_it(small, on_64):
    assert {one.topology.tensor for one in on_64.ranked if one.precision is Precision.fp8} == {1}
    job = small.question.job
    a100 = search(asking(job, 2, machine="a100_80g"))
    assert {one.precision for one in a100.ranked} == {Precision.bf16}
    odd = replace(small.question, job=replace(job, model=replace(job.model, intermediate_size=8_200)))
    assert precisions(odd, 1) == [Precision.bf16]
    fp32 = search(asking(replace(job, precision=PrecisionConfig()), 2))
    assert {one.precision for one in (*fp32.ranked, *fp32.too_large)} == {Precision.fp32}


def test_what_is_printed(on_64):
    text = printed(on_64)
    assert "Layouts of 64 x h100_sxm, 256 sequences of 4,096" in text
    assert "would cross machines of 8" in text
    assert len(rows(on_64)) == 10
    for precision in (Precision.bf16, Precision.fp8):
        assert " ".join(overrides(on_64.question, on_64.best(precision=precision))) in text.replace("\n", " ")


def test_half_of_the_table_is_for_the_other_precision(small):
    assert [one.precision for one in rows(small)] == [Precision.fp8] * 5 + [Precision.bf16] * 5


def test_where_nothing_fits_the_smallest_layouts_are_named_with_their_excess(paper):
    found = search(asking(paper, 1, 256))
    assert not found.ranked
    first, second, *_ = lines(found)
    assert first.startswith("no layout fits in ")
    smallest = min(one.memory.total for one in found.too_large)
    over = smallest - found.question.machine.memory_bytes
    assert re.search(
        rf"too large: .*: {smallest / 1e9:.1f} GB, {over / 1e9:.1f} over; of it \w+ [\d.]+, \w+ [\d.]+$", second
    )
    assert "to paste" not in printed(found)
    assert min(row["bytes_over"] for row in search_json(found)) == over


def test_plan_json_s_block(on_64):
    block = json.loads(json.dumps(search_json(on_64)))
    assert block[0]["step_seconds"] == on_64.ranked[0].step.total_seconds
    assert block[0]["memory_bytes"]["total"] == on_64.ranked[0].memory.total
    assert {row["tensor"] for row in block} == {1, 2, 4, 8}
    times = [row["days"] for row in block if not row["bytes_over"]]
    assert times == pytest.approx(sorted(times), rel=1e-8)


@pytest.mark.parametrize(
    ("gpus", "batch", "message"),
    [
        (12, None, "plan.gpus (12): must be at most 8, or fill machines of 8 (h100_sxm); nearest: 8, 16"),
        (
            2304,
            1000,
            "plan.global_batch_size (1000): no layout of 2,304 devices divides it; nearest: 864, 1152;"
            " or change plan.gpus",
        ),
        (
            2304,
            None,
            "schedule.phases.warmup.global_batch_size (384): no layout of 2,304 devices divides it; nearest: 288, 576;"
            " or change plan.gpus",
        ),
    ],
)
def test_a_question_without_an_answer_is_one_line(paper, gpus, batch, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        search(asking(paper, gpus, batch))


def test_a_machine_must_be_known(paper):
    with pytest.raises(ValueError, match=r"^plan\.machine \(h100\): .*nearest: h100_"):
        search(asking(paper, machine="h100"))
    unknown = replace(paper, topology=replace(paper.topology, machine=None))
    with pytest.raises(ValueError, match=r"^plan\.machine \(null\): plan\.search needs a kind of machine; "):
        search(asking(unknown, machine=None))


def test_what_only_search_reads_needs_search(capsys):
    assert status_of("plan", "experiment=demo", "plan.gpus=64") == 2
    line = "nemotron4 plan: plan.gpus (64): is for plan.search alone; add plan.search=true\n"
    assert capsys.readouterr().err == line
    with pytest.raises(ValueError, match=r"^plan\.gpus \(0\): must be at least 1, or null$"):
        PlanConfig(search=True, gpus=0)
