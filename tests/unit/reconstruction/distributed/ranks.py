"""One rank of the tests: ``python ranks.py CASES``, a JSON list, prints a JSON object a line.

One process works through all cases, in groups of several sizes: to start it takes longer than all the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._partition import Partition

COUNT = 1001
"""Numbers that are summed: not a multiple of anything, so that pieces are unequal."""


def of_rank(rank: int, dtype: torch.dtype, round_: int = 0) -> torch.Tensor:
    return torch.randn(COUNT, dtype=dtype, generator=torch.Generator().manual_seed(100 * round_ + rank))


def bits(tensor: torch.Tensor) -> str:
    return hashlib.sha256((torch.view_as_real(tensor) if tensor.is_complex() else tensor).numpy().tobytes()).hexdigest()


def sums(own: Communicator) -> dict[str, object]:
    found: dict[str, object] = {}
    for dtype in (torch.float64, torch.float32, torch.complex64):
        before = {level: dict(one) for level, one in own.traffic.items()}
        total = own.all_reduce(of_rank(own.rank, dtype), str(dtype))
        sent = {level: int(own.traffic[level]["bytes"] - before[level]["bytes"]) for level in ("node", "global")}
        wide = torch.complex128 if dtype.is_complex else torch.float64
        flat = torch.stack([of_rank(rank, dtype).to(wide) for rank in range(own.size)]).sum(dim=0)
        error = float((total.to(wide) - flat).abs().max() / flat.abs().max())
        item = total.element_size()
        found[str(dtype)] = {
            "error": error,
            "bits": bits(total),
            "sent": sent,
            "expected": own.topology.reduce_bytes(own.rank, COUNT, item),
        }
    return found


def halos(own: Communicator) -> dict[str, object]:
    """Each rank fills its tile with its number; what comes back from a neighbour has to be that neighbour's pixels."""
    corners = np.random.default_rng(3).uniform(2, 60, (80, 2))
    partition = Partition.of(corners, 16, (80, 80), own.size)
    pixels = torch.arange(80 * 80, dtype=torch.float32).reshape(80, 80)
    whole = torch.complex(pixels, torch.full_like(pixels, own.rank))
    mine = partition.halos_of(own.rank)
    tile = whole[partition.tiles[own.rank]].clone()
    before = own.traffic["halo"]["bytes"]
    pending = own.start_halo({one.other(own.rank): tile[one.inside(partition.tiles[own.rank])] for one in mine})
    tile[:] = torch.nan  # the interior may be written to meanwhile
    spare = own.all_reduce(torch.ones(3), "probe beside halos")
    came = pending.finish()
    right = all(
        torch.equal(came[one.other(own.rank)].real, pixels[one.rows, one.columns])
        and bool((came[one.other(own.rank)].imag == one.other(own.rank)).all())
        for one in mine
    )
    return {
        "right": right and set(came) == {one.other(own.rank) for one in mine},
        "neighbours": len(came),
        "sum": spare.tolist(),
        "sent": int(own.traffic["halo"]["bytes"] - before),
        "expected": partition.bytes_per_exchange(own.rank),
    }


def feedback(own: Communicator) -> dict[str, object]:
    """The same values many times, then values that settle, on a wire of few bits."""
    exact = torch.stack([of_rank(rank, torch.float32) for rank in range(own.size)]).sum(dim=0)
    rounds = [own.all_reduce(of_rank(own.rank, torch.float32), "steady") for _ in range(8)]
    errors = [float((one - exact).abs().max()) for one in rounds]
    mean = float((torch.stack(rounds[1:]).mean(dim=0) - exact).abs().max())
    peer, pixels = own.rank ^ 1, torch.complex(of_rank(own.rank, torch.float32), of_rank(9, torch.float32))
    settled = torch.complex(of_rank(peer, torch.float32), of_rank(9, torch.float32))
    seen = [own.start_halo({peer: pixels}).finish()[peer] for _ in range(4)]
    broken = of_rank(own.rank, torch.float32)
    broken[5] = torch.nan if own.rank == own.size - 1 else 0.0
    nan = own.all_reduce(broken, "steady")
    healed = [own.all_reduce(of_rank(own.rank, torch.float32), "steady") for _ in range(4)][-1]
    return {
        "errors": errors,
        "mean": mean,
        "halo": [float((one - settled).abs().max()) for one in seen],
        "bits": bits(rounds[-1]),
        "nan": torch.isnan(nan).nonzero().flatten().tolist(),
        "healed": float((healed - exact).abs().max()),
        "double": float(own.all_reduce(torch.full((2,), 1 / 3, dtype=torch.float64), "double")[0] - own.size / 3),
        "sent": int(own.traffic["halo"]["bytes"]),
    }


def others(own: Communicator) -> dict[str, object]:
    tensor = torch.full((3, 2), own.rank, dtype=torch.complex64)
    found = [own.broadcast(tensor, "start", source).real.unique().tolist() for source in range(own.size)]
    own.barrier("the end")
    empty = own.all_reduce(torch.empty(0), "nothing")
    return {
        "broadcast": found,
        "gathered": own.gather_objects({"rank": own.rank}, "ranks"),
        "at_root": own.gather_objects(own.rank, "ranks", root=1),
        "empty": empty.numel(),
        "nan": torch.isnan(own.all_reduce(torch.tensor([1.0, torch.nan if own.rank else 1.0]), "nan")).tolist(),
    }


def healthy(own: Communicator) -> dict[str, object]:
    return {"nodes": own.topology.nodes, "sums": sums(own), "halos": halos(own), "others": others(own)}


def death(own: Communicator) -> dict[str, object]:
    """The last rank is killed in the middle of the work."""
    own.all_reduce(torch.ones(10), "probe")
    if own.rank == own.size - 1:
        os.kill(os.getpid(), 9)
    return failing(lambda: [own.all_reduce(torch.ones(10), "probe") for _ in range(2)])


def stall(own: Communicator) -> dict[str, object]:
    """The last rank never comes to its halo; it ends when the others have given up."""
    own.timeout_s = 1
    if own.rank == own.size - 1:
        time.sleep(2.5)
        return {}
    return failing(lambda: own.start_halo({1: torch.ones(4)}).finish())


def failing(work: Callable[[], object]) -> dict[str, object]:
    began = time.monotonic()
    try:
        work()
    except ReconstructionError as error:
        return {"error": str(error), "seconds": time.monotonic() - began}
    return {"error": ""}


CASES = {"healthy": healthy, "feedback": feedback, "death": death, "stall": stall}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in json.loads(sys.argv[1]):
        os.environ |= case["environment"]
        own = Communicator(60, case.get("wire", "float32"), case.get("nodes"))
        sys.stdout.write(json.dumps({case["name"]: CASES[case["case"]](own)}) + "\n")
        sys.stdout.flush()
        if case["case"] in ("healthy", "feedback"):
            own.close()
    os._exit(0)  # a broken group would wait for its peers
