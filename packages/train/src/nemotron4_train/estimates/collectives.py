"""The time of a collective: a ring over the links of a node, and between nodes over all adapters that its ranks have.

A ring passes through each node once, and NCCL makes as many rings as the group has adapters in a node: a group with
every second device of a node uses half of its adapters. So gathering weights over data ranks takes the same time for
any tensor size that fits a node.
Invariant: a collective over more ranks, with as many bytes in all, is never faster.
Source: bandwidth and latency of a ring as in NCCL (src/graph/tuning.cc, protocol Simple); NCCL's maintainers expect 360
GB/s of an H100's 450 in a node (nccl-tests, issue 326) and 46 to 48 GB/s of an adapter's 50 (issue 290).
"""

from __future__ import annotations

from dataclasses import dataclass

from nemotron4_train.machine import Machine

NODE_LINK_REACHED = 0.8
NETWORK_REACHED = 0.92
_START_SECONDS = 8.4e-6
_NODE_HOP_SECONDS, _NETWORK_HOP_SECONDS = 3.4e-6, 14e-6


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ranks that communicate: each `stride`-th of the ranks, which fill one node after another."""

    num_ranks: int
    stride: int = 1
    devices_per_node: int
    machine: Machine

    def gather_seconds(self, num_bytes: float) -> float:
        """An all-gather to `num_bytes` on each rank, or a reduce-scatter of as many."""
        if self.num_ranks == 1:
            return 0.0
        local = max(1, min(self.num_ranks, self.devices_per_node // self.stride))
        num_nodes = -(-self.num_ranks // local)
        link = self.machine.node_link_gigabytes_per_second * NODE_LINK_REACHED
        network = local * self.machine.network_gigabytes_per_second * NETWORK_REACHED
        bytes_per_second = 1e9 * (link if num_nodes == 1 else min(link, network))
        hops = (self.num_ranks - num_nodes) * _NODE_HOP_SECONDS + (num_nodes - 1) * _NETWORK_HOP_SECONDS
        return _START_SECONDS + hops + num_bytes * (1 - 1 / self.num_ranks) / bytes_per_second

    def sum_seconds(self, num_bytes: float) -> float:
        """An all-reduce: a reduce-scatter, then an all-gather."""
        return 2 * self.gather_seconds(num_bytes)
