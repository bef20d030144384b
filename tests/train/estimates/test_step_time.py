"""Predicted step times: what must hold for every layout, and numbers worked out by hand."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_model.config import ModelConfig, Recompute
from nemotron4_model.dtype import DType
from nemotron4_train.estimates.collectives import Group
from nemotron4_train.estimates.layout import Layout, Sharding
from nemotron4_train.estimates.reached import Reached
from nemotron4_train.estimates.stack import Attention, megatron, ours
from nemotron4_train.estimates.step_time import StepTime, mfu, step_time
from nemotron4_train.job import OptimizerKind, Precision
from nemotron4_train.machine import load_machine
from nemotron4_train.topology import Device

H100 = load_machine("h100_sxm")
MODEL = ModelConfig.preset("nemotron4_15b")
powers = st.sampled_from([1, 2, 4, 8, 16, 64])
rates = st.floats(1, 4)


def layout(**changes):
    chosen = {"replicate": 1, "shard": 8, "tensor": 1, "micro_batch_size": 2, "num_micro_batches": 2} | changes
    batch = chosen["replicate"] * chosen["shard"] * chosen["micro_batch_size"] * chosen.pop("num_micro_batches")
    fixed = {"devices_per_node": 8, "sequence_length": 4096, "sharding": Sharding.fsdp, "global_batch_size": batch}
    return Layout(**fixed | chosen)


layouts = st.builds(
    layout,
    replicate=powers,
    shard=powers,
    tensor=st.sampled_from([1, 2, 4, 8]),
    micro_batch_size=st.sampled_from([1, 2, 4]),
    num_micro_batches=st.sampled_from([1, 2, 5]),
    compute=st.sampled_from(Precision),
    reduce=st.sampled_from(DType),
    recompute=st.sampled_from(Recompute),
    reshard_after_forward=st.booleans(),
    reduce_each_micro_batch=st.booleans(),
    compile=st.booleans(),
    sharding=st.sampled_from(Sharding),
)


def seconds(chosen, machine=H100, model=MODEL):
    return step_time(model, chosen, machine).total_seconds


def grown(chosen, **factors):
    sizes = {name: getattr(chosen, name) * factor for name, factor in factors.items()}
    return replace(chosen, global_batch_size=chosen.global_batch_size * math.prod(factors.values()), **sizes)


@settings(deadline=None)
@given(layouts, st.sampled_from([2, 3, 8]))
def test_more_replicas_never_take_less_time_for_the_same_work_each(chosen, factor):
    if chosen.sharding is Sharding.fsdp:
        assert seconds(grown(chosen, replicate=factor)) >= seconds(chosen)


@settings(deadline=None)
@given(layouts, st.sampled_from([2, 3, 8]))
def test_more_shards_gain_only_what_they_divide(chosen, factor):
    chosen = replace(chosen, replicate=1, global_batch_size=chosen.global_batch_size // chosen.replicate)
    few, many = (step_time(MODEL, each, H100).seconds for each in (chosen, grown(chosen, shard=factor)))
    divided = {"optimizer", "element-wise", "scale"}  # casts of a shard are element-wise; scale is a share of all
    assert all(many[part] >= few[part] for part in few.keys() - divided)
    assert many["optimizer"] == pytest.approx(few["optimizer"] / factor)


@settings(deadline=None)
@given(layouts, rates, rates, rates, rates)
def test_a_faster_machine_is_never_slower(chosen, compute, memory, link, network):
    faster = replace(
        H100,
        peak_teraflops={name: peak * compute for name, peak in H100.peak_teraflops.items()},
        memory_gigabytes_per_second=H100.memory_gigabytes_per_second * memory,
        node_link_gigabytes_per_second=H100.node_link_gigabytes_per_second * link,
        network_gigabytes_per_second=H100.network_gigabytes_per_second * network,
    )
    assert seconds(chosen, faster) <= seconds(chosen) * (1 + 1e-12)


@settings(deadline=None)
@given(layouts)
def test_what_saves_memory_or_is_not_compiled_takes_time(chosen):
    recomputed = [seconds(replace(chosen, recompute=mode)) for mode in (Recompute.none, Recompute.selective)]
    assert recomputed[0] < recomputed[1] < seconds(replace(chosen, recompute=Recompute.full))
    if chosen.sharding is Sharding.fsdp:
        assert seconds(replace(chosen, compile=True)) < seconds(replace(chosen, compile=False))
        if chosen.shard > 1:
            kept, gathered = (seconds(replace(chosen, reshard_after_forward=again)) for again in (False, True))
            assert kept < gathered


@settings(deadline=None)
@given(st.integers(1, 3_000), st.integers(1, 3_000), st.sampled_from([1, 2, 8, 64]), st.floats(0, 1e11))
def test_a_collective_over_more_ranks_is_never_faster(first, second, stride, num_bytes):
    few, many = sorted((first, second))
    times = [
        Group(num_ranks=ranks, stride=stride, devices_per_node=8, machine=H100).gather_seconds(num_bytes)
        for ranks in (few, many)
    ]
    assert times[0] <= times[1]


def test_parts_are_what_hand_arithmetic_gives():
    parts = step_time(MODEL, layout(shard=64, num_micro_batches=1), H100, Reached(product_depth=0)).seconds
    products = 6 * 8192 * (MODEL.num_parameters_without_input_embedding - 65 * 2 * 6144)
    rate = 989.4e12 * Reached().products
    assert products / rate <= parts["matrix products"] <= 1.02 * products / rate  # but for waves that are not full
    attention = 32 * 2 * 4096 * 6144 * 8192  # the causal half of 4 s^2 d for each sequence
    assert parts["attention"] == pytest.approx(attention / 989.4e12 * (1 / 0.572 + 2.5 / 0.475))
    assert parts["loss"] == pytest.approx((6 * 8192 + 12 * 6144) * 256_000 / (3.35e12 * 0.87))
    assert parts["optimizer"] == pytest.approx(MODEL.num_parameters / 64 * 40 / (3.35e12 * 0.87))
    assert parts["tensor communication"] == parts["pipeline bubble"] == 0


def test_fp32_moves_twice_the_bytes_and_heads_need_not_fill_the_hidden_size():
    fp32 = step_time(MODEL, layout(num_micro_batches=1, compute=Precision.fp32), H100).seconds
    assert fp32["loss"] == pytest.approx((12 * 8192 + 12 * 6144) * 256_000 / (3.35e12 * 0.87))
    narrow = step_time(replace(MODEL, head_dim=64), layout(), H100).seconds
    assert narrow["attention"] == pytest.approx(step_time(MODEL, layout(), H100).seconds["attention"] / 2)


def test_recomputation_repeats_a_block_up_to_its_last_product():
    def parts(mode):
        return step_time(MODEL, layout(tensor=2, recompute=mode), H100, Reached(product_depth=0)).seconds

    none, selective, full = (parts(mode) for mode in Recompute)
    flops = 2 * (2 * 8192) * 32 / 2 * 6144 * (8192 + 6144 + 24_576)  # qkv, out and up of two micro-batches
    again = full["matrix products"] - none["matrix products"]
    assert again == pytest.approx(flops / (989.4e12 * Reached().products), rel=0.05)
    assert selective["matrix products"] == none["matrix products"]
    assert selective["attention"] == none["attention"] < full["attention"]
    # 8 collectives a block, and 4 for embedding and head, as dry runs count them; 11 with recomputation.
    repeated = selective["tensor communication"] / none["tensor communication"]
    assert repeated == pytest.approx((11 * 32 + 4) / (8 * 32 + 4))


def test_gathers_that_fit_behind_computation_cost_their_share_and_the_embedding():
    parts = step_time(MODEL, layout(shard=64), H100).seconds
    hop = (7 * 8 * 3.4e-6 + 7 * 14e-6) + 8.4e-6
    gather = MODEL.num_parameters * 2 * 63 / 64 / 360e9 + 34 * hop
    embedding = 256_000 * 6144
    first = embedding * 2 * 63 / 64 / 360e9 + hop
    bare = first + 0.15 * (gather - first)
    assert parts["data communication"] == pytest.approx(2 * bare)  # the reduction in bf16 moves as much


def test_the_network_is_shared_by_the_groups_of_a_node():
    """Gathering a node's part of 31 GB takes each adapter as long, whichever ranks of it are in the group."""
    whole = Group(num_ranks=64, stride=1, devices_per_node=8, machine=H100).gather_seconds(31.26e9)
    eighth = Group(num_ranks=8, stride=8, devices_per_node=8, machine=H100).gather_seconds(31.26e9 / 8)
    assert eighth == pytest.approx(31.26e9 / 8 * 7 / 8 / 46e9, rel=0.01)
    assert whole == pytest.approx(31.26e9 * 63 / 64 / 360e9, rel=0.01)


def test_a_group_in_a_node_does_not_use_the_network():
    slow = replace(H100, network_gigabytes_per_second=1)
    hybrid = layout(replicate=1, shard=8, reshard_after_forward=True)
    assert seconds(hybrid, slow) == seconds(hybrid)
    assert step_time(MODEL, layout(shard=2), H100).seconds["scale"] == 0
    assert seconds(grown(hybrid, replicate=2), slow) > seconds(grown(hybrid, replicate=2))


@pytest.mark.parametrize("each", [False, True])
def test_on_a_slow_network_replicas_take_as_long_as_summing_their_shards_over_it(each):
    """Once a step, whether or not each micro-batch is reduced."""
    slow = replace(H100, network_gigabytes_per_second=0.01)
    chosen = layout(replicate=4, shard=8, reshard_after_forward=True, reduce_each_micro_batch=each)
    parts = step_time(MODEL, chosen, slow).seconds
    summed = 2 * 3 / 4 * MODEL.num_parameters / 8 * 2  # bytes of bf16 through each adapter
    assert parts["data communication"] == pytest.approx(summed / (0.01e9 * 0.92), rel=0.01)


@pytest.mark.parametrize(("reshard", "each"), [(False, False), (True, False), (False, True), (True, True)])
def test_over_slow_links_shards_take_as_long_as_gathering_and_scattering(reshard, each):
    slow = replace(H100, node_link_gigabytes_per_second=0.01)
    chosen = layout(shard=8, num_micro_batches=3, reduce=DType.fp32, reshard_after_forward=reshard)
    chosen = replace(chosen, reduce_each_micro_batch=each)
    parts = step_time(MODEL, chosen, slow).seconds
    weights, blocks = MODEL.num_parameters, MODEL.num_non_embedding_parameters  # backward needs no embedding nor head
    gathered = 3 * (weights + blocks) if reshard else weights
    once = step_time(MODEL, replace(chosen, reshard_after_forward=False), slow).seconds
    copied = (gathered - weights) * (6 / 8 + 4)  # a shard is read in fp32 and written in bf16, the whole copied
    assert parts["element-wise"] - once["element-wise"] == pytest.approx(copied / (3.35e12 * 0.87))
    num_bytes = 7 / 8 * (2 * gathered + 4 * weights * (3 if each else 1))
    assert parts["data communication"] == pytest.approx(num_bytes / (0.01e9 * 0.8), rel=0.01)


@pytest.mark.parametrize("sharding", Sharding)
def test_tensor_ranks_divide_all_computation(sharding):
    machine = replace(H100, multiprocessors=1)  # whose waves of tiles are always full
    one, eight = (
        step_time(MODEL, layout(tensor=tensor, sharding=sharding), machine, Reached(product_depth=0)).seconds
        for tensor in (1, 8)
    )
    for part in ("matrix products", "attention", "element-wise", "loss", "optimizer"):
        assert eight[part] == pytest.approx(one[part] / 8), part


def test_tensor_collectives_beside_products_cost_less():
    def exposed(stack):
        parts = step_time(MODEL, layout(shard=4, tensor=8, compute=Precision.bf16), H100, stack=stack).seconds
        return parts["tensor communication"]

    pipelined, beside = (megatron(attention=Attention.cudnn, pipelines_tensor=each) for each in (True, False))
    assert exposed(pipelined) < exposed(beside) < exposed(ours(compiled=True))


@pytest.mark.parametrize(("ranks", "rounds"), [(1, {"qkv": 32, "out": 32, "mlp": 64}), (2, {"qkv": 32, "mlp": 32})])
def test_muon_iterates_on_whole_matrices_that_ranks_take_in_turns(ranks, rounds):
    def optimizer_seconds(kind):
        return step_time(MODEL, layout(shard=ranks), H100, optimizer=kind).seconds["optimizer"]

    more = optimizer_seconds(OptimizerKind.muon) - optimizer_seconds(OptimizerKind.adamw)
    longer = {"qkv": 8_192, "out": 6_144, "mlp": 24_576}
    # Five times: X X^T, the square of that, and the product of both with X.
    flops = sum(times * 5 * (4 * 6144**2 * longer[name] + 2 * 6144**3) for name, times in rounds.items())
    matrices = 2 * (MODEL.num_non_embedding_parameters - 65 * 2 * 6144)
    traffic = 2 * (ranks - 1) / ranks * matrices / 360e9  # gathered, and sent to all
    assert more == pytest.approx(flops / (989.4e12 * Reached().products) + traffic, rel=0.01)


def test_muon_on_a_cpu_iterates_in_fp32():
    cpu = load_machine("cpu")
    alone = layout(shard=1, compute=Precision.fp32, device=Device.cpu)
    muon, adamw = (step_time(MODEL, alone, cpu, optimizer=kind).total_seconds for kind in reversed(OptimizerKind))
    on_gpu = replace(alone, device=Device.cuda)
    bf16 = step_time(MODEL, on_gpu, cpu, optimizer=OptimizerKind.muon).total_seconds
    peaks = cpu.peak_teraflops
    assert (muon - adamw) / (bf16 - adamw) == pytest.approx(peaks["bf16"] / peaks["fp32"])


def test_mfu_is_that_of_the_report():
    """Arithmetic on Table 2's first row; the report prints 34.3%."""
    chosen = layout(shard=96, tensor=8, micro_batch_size=4, num_micro_batches=1)
    assert mfu(MODEL, chosen, H100, seconds=0.57) == pytest.approx(0.3415, abs=2e-4)


def test_a_machine_without_the_format_is_refused_in_one_line():
    with pytest.raises(ValueError) as refusal:
        step_time(MODEL, layout(compute=Precision.fp8), load_machine("a100_80g"))
    assert str(refusal.value) == "precision.compute (fp8): a100_80g has no peak for it; choose one of: fp32, bf16"


def test_every_predicted_quantity_has_its_unit_in_its_name():
    assert {field.name for field in fields(StepTime)} | {"total_seconds"} == {"seconds", "total_seconds"}
    shares = {"products", "tensor_overlap", "per_doubling", "product_depth", "memory", "data_overlap"}
    assert all(field.name.endswith("_seconds") for field in fields(Reached) if field.name not in shares)
    units = ("_gigabytes", "_gigabytes_per_second", "_teraflops")
    others = {"name", "cuda_names", "devices_per_node", "multiprocessors"}
    assert all(field.name.endswith(units) for field in fields(H100) if field.name not in others)
