from __future__ import annotations

import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from waiting import free_port

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._partition import Partition
from ptycho_bluesky.reconstruction.distributed._topology import Topology, pieces
from ptycho_bluesky.reconstruction.distributed._wire import Wire

RANK = Path(__file__).with_name("ranks.py")
BENCHMARKS = Path(__file__).parents[4] / "benchmarks"


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    found = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return found | {"GLOO_SOCKET_IFNAME": "lo"}


GROUPS = [
    {"name": "2 x 2", "case": "healthy", "nodes": [0, 1, 0, 1], "ranks": [0, 1, 2, 3]},
    {"name": "3 + 1", "case": "healthy", "nodes": [7, 7, 7, 2], "ranks": [0, 1, 2, 3]},
    {"name": "2", "case": "healthy", "ranks": [0, 1]},
    {"name": "bfloat16", "case": "feedback", "wire": "bfloat16", "nodes": [0, 0, 1, 1], "ranks": [0, 1, 2, 3]},
    {"name": "float16", "case": "feedback", "wire": "float16", "nodes": [0, 0, 1, 1], "ranks": [0, 1, 2, 3]},
    {"name": "death", "case": "death", "ranks": [2, 3]},
    {"name": "stall", "case": "stall", "ranks": [0, 1]},
]
"""Cases and the processes that take part, by groups over real Gloo on the loopback device."""


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict]]:
    """What each rank of each case printed."""
    plans: list[list[dict]] = [[], [], [], []]
    for group in GROUPS:
        port = free_port()
        for rank, process in enumerate(group["ranks"]):
            plans[process].append(group | {"environment": environment(rank, len(group["ranks"]), port)})
    processes = [
        subprocess.Popen(
            [sys.executable, str(RANK), json.dumps(plan)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for plan in plans
    ]
    seen: dict[str, list[dict]] = {}
    try:
        for process in processes:
            out, errors = process.communicate(timeout=110)
            assert process.returncode in (0, -9), errors
            for line in out.splitlines():
                for name, printed in json.loads(line).items():
                    seen.setdefault(name, []).append(printed)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return seen


def test_ranks_are_grouped_by_host_or_by_hand(found):
    assert found["2"][0]["nodes"] == [[0, 1]]
    assert found["2 x 2"][3]["nodes"] == [[0, 2], [1, 3]]
    assert found["3 + 1"][3]["nodes"] == [[0, 1, 2], [3]]


@pytest.mark.parametrize("ranks", ["2", "2 x 2", "3 + 1"])
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-14), ("float32", 1e-6), ("complex64", 1e-6)])
def test_a_sum_in_two_levels_is_the_flat_sum_and_the_same_bits_everywhere(found, ranks, dtype, limit):
    sums = [one["sums"][f"torch.{dtype}"] for one in found[ranks]]
    assert max(one["error"] for one in sums) < limit
    assert len({one["bits"] for one in sums}) == 1


@pytest.mark.parametrize("ranks", ["2", "2 x 2", "3 + 1"])
def test_bytes_are_those_that_were_expected(found, ranks):
    for one in found[ranks]:
        for total in one["sums"].values():
            assert total["sent"] == total["expected"]
        assert one["halos"]["sent"] == one["halos"]["expected"] > 0


@pytest.mark.parametrize(
    ("ranks", "nodes"), [("1", [0]), ("2", [0, 0]), ("2 x 2", [0, 1, 0, 1]), ("3 + 1", [0, 0, 0, 1])]
)
def test_the_scaling_model_counts_the_same_bytes(found, ranks, nodes):
    model = runpy.run_path(str(BENCHMARKS / "scaling_model.py"))
    partition = Partition.of(np.random.default_rng(3).uniform(2, 60, (80, 2)), 16, (80, 80), len(nodes))
    topology = Topology.of(nodes, len(nodes))
    alone = [{"halos": {"sent": 0}, "sums": {"torch.complex64": {"sent": {"node": 0, "global": 0}}}}]
    for rank, one in enumerate(found.get(ranks, alone)):
        sent = {"halo": one["halos"]["sent"], **one["sums"]["torch.complex64"]["sent"]}
        assert model["epoch_bytes"](partition, topology, rank, 2 * 1001, 3) == {k: 3 * v for k, v in sent.items()}


@pytest.mark.parametrize("ranks", ["2", "2 x 2", "3 + 1"])
def test_halos_bring_the_neighbours_pixels_while_a_sum_is_under_way(found, ranks):
    size = len(found[ranks])
    for one in found[ranks]:
        assert one["halos"]["right"] and one["halos"]["neighbours"] >= 1
        assert one["halos"]["sum"] == [size] * 3


@pytest.mark.parametrize("ranks", ["2", "2 x 2", "3 + 1"])
def test_broadcast_collection_and_nan(found, ranks):
    size = len(found[ranks])
    for rank, one in enumerate(found[ranks]):
        others = one["others"]
        assert others["broadcast"] == [[source] for source in range(size)]
        assert others["gathered"] == [{"rank": number} for number in range(size)]
        assert others["at_root"] == (list(range(size)) if rank == 1 else [])
        assert others["nan"] == [False, True] and others["empty"] == 0


@pytest.mark.parametrize(("precision", "first"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_few_bits_on_the_wire_lose_nothing_for_good(found, precision, first):
    assert len({one["bits"] for one in found[precision]}) == 1
    for one in found[precision]:
        assert 1e-5 < one["errors"][0] < first, "rounding shows at first"
        assert one["errors"][-1] < 2e-6 and one["mean"] < first / 50
        assert one["halo"][0] > 1e-5 > 1e-6 > one["halo"][-1]
        assert one["nan"] == [5] and one["healed"] < 2e-6
        assert abs(one["double"]) < 1e-15, "float64 is not rounded"
        assert one["sent"] == 4 * 1001 * 2 * 2, "two bytes a number"


def test_a_rank_that_dies_is_named(found):
    (left,) = found["death"]
    assert "lost rank 1" in left["error"] and "the sum of probe" in left["error"]
    assert "checkpoint" in left["error"] and left["seconds"] < 30


def test_a_rank_that_is_late_is_named(found):
    left = found["stall"][0]
    assert "waited 1 s for rank 1" in left["error"] and "halos" in left["error"] and left["seconds"] < 2.5


def test_a_rank_that_never_joins_is_named(monkeypatch):
    for name, value in environment(0, 3, free_port()).items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(ReconstructionError, match=r"rank 0 of 3 waited 0.5 s for rank 1: not started"):
        Communicator(0.5)
    assert time.monotonic() - began < 5


def test_nobody_at_the_meeting_point(monkeypatch):
    for name, value in environment(1, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ReconstructionError, match=r"the meeting at 127\.0\.0\.1"):
        Communicator(1.0)


def test_half_an_environment(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ReconstructionError, match="start ranks with torchrun"):
        Communicator()


def test_a_single_rank_needs_nobody():
    own = Communicator(wire="bfloat16")
    tensor = torch.tensor([1 / 3, 2.0])
    total = own.all_reduce(tensor, "probe")
    assert torch.equal(total, tensor) and total.data_ptr() != tensor.data_ptr()
    assert torch.equal(own.broadcast(tensor, "start"), tensor)
    assert own.gather_objects(5, "numbers") == [5] and own.start_halo({}).finish() == {}
    own.barrier("the end")
    own.close()
    assert own.traffic["node"]["bytes"] == 0 and own.size == 1


def test_refusals():
    with pytest.raises(ReconstructionError, match="above 0"):
        Communicator(0)
    with pytest.raises(ReconstructionError, match="bfloat16, float16"):
        Wire("int8")
    with pytest.raises(ReconstructionError, match="2 nodes were given for 4 ranks"):
        Topology.of([0, 1], 4)


def test_large_numbers_reach_float16_in_parts():
    wire, values = Wire("float16"), torch.tensor([1e5, -3.0, torch.inf])
    for _ in range(3):
        message = wire.message("there", values)
        known = wire.received("there", message, torch.float32)
        assert torch.isfinite(message[:2]).all() and torch.isinf(known[2])
    assert torch.allclose(known[:2], values[:2])


def test_leaders_send_as_little_as_a_ring():
    topology = Topology.of([0] * 8 + [1] * 8 + [2] * 8 + [3] * 8, 32)
    leader = topology.reduce_bytes(8, 4000, 4)
    assert leader["global"] == 2 * 3 / 4 * 4000 * 4
    assert topology.reduce_bytes(9, 4000, 4) == {"node": 16000, "global": 0}
    assert [part.stop - part.start for part in pieces(7, 3)] == [3, 2, 2]
