"""How long a job takes on 1 to 1,024 GPUs, what they exchange and what they hold: a model, not a measurement.

``python benchmarks/scaling_model.py`` prints one JSON object (``--table`` a table in Markdown, ``--picture`` a PNG).
Bytes are counted by the functions that the communicator is tested against, on the partition that the worker would use
(thinned eight times in space). Seconds follow from the constants below, each of which is an argument:

* ``--frame-us`` 47: a frame of 512 x 512 pixels and one mode, on one GPU. An estimate: 42 MB of memory traffic at the
  0.9 TB/s of an A100-class GPU. Put in what ``benchmarks/gpu.py`` measures on yours.
* ``--node-gbs`` 200, ``--node-us`` 10: a GPU to another in its node; two thirds of the 300 GB/s that NVLink 3 has in
  one direction, and the usual cost of a launch of NCCL.
* ``--network-gbs`` 25, ``--network-us`` 20: a GPU to one in another node; an HDR InfiniBand link of 200 Gb/s for each.
* ``--storage-gbs`` 1.25: from the detector's storage to all GPUs together; 10 Gb/s Ethernet.
* ``--exchanges`` 4 and ``--minibatches`` 20: how often an epoch shares the object, ours and by whole-object all-reduce.

A view is 5 GB: 9,536 frames of 512 x 512 uint16, 3 modes, a 4,096 x 4,096 object, 100 epochs.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ptycho_bluesky.experiment import fermat
from ptycho_bluesky.reconstruction.distributed._partition import Partition
from ptycho_bluesky.reconstruction.distributed._topology import Topology

FRAMES, FRAME, MODES, OBJECT, EPOCHS = 9536, 512, 3, 4096, 100
THIN = 8
"""The geometry of 1,024 tiles is counted on an object thinned by this in both directions."""

BATCH = 256
"""Frames of a batch; four arrays of all its waves are held."""

JOBS = {"2D": 1, "3D": 360, "4D": 360 * 50, "5D": 360 * 50 * 50}
"""Views: angles, energies, times."""

GPUS = (1, 4, 8, 64, 256, 1024)
PROBE_NUMBERS = 2 * MODES * FRAME**2


@dataclass(frozen=True)
class Machine:
    frame_us: float = 47.0
    node_gbs: float = 200.0
    node_us: float = 10.0
    network_gbs: float = 25.0
    network_us: float = 20.0
    storage_gbs: float = 1.25
    gpus_per_node: int = 8
    exchanges: int = 4
    minibatches: int = 20


@dataclass(frozen=True)
class Geometry:
    """Of the busiest rank of a view divided over some GPUs, in full pixels."""

    frames: int
    halo_bytes: int
    neighbours: int
    interior: float
    tile_pixels: int


@dataclass(frozen=True)
class View:
    """One view on a group of GPUs: an epoch's seconds, bytes sent by the busiest rank, memory of a GPU."""

    epoch_s: float
    epoch_bytes: int
    memory_gb: float


def epoch_bytes(partition: Partition, topology: Topology, rank: int, numbers: int, exchanges: int) -> dict[str, int]:
    """Return what a rank sends in an epoch at each level; `numbers` float32 are summed at each exchange."""
    summed = topology.reduce_bytes(rank, numbers, 4)
    sent = {"halo": partition.bytes_per_exchange(rank), **summed}
    return {level: exchanges * count for level, count in sent.items()}


@cache
def geometry(gpus: int) -> Geometry:
    field = (OBJECT - FRAME) / THIN - 4
    places = fermat(field, field, field / math.sqrt(FRAMES)).positions
    size, side = FRAME // THIN, OBJECT // THIN
    lit = slice(size // 4, size - size // 4)  # a probe fills at most half of its frame
    places = places - places.min(axis=0) + 2
    partition = Partition.of(places, size, (side, side), gpus, margin=1, light=(lit, lit))
    sample = range(0, gpus, max(1, gpus // 16))
    return Geometry(
        frames=math.ceil(FRAMES / gpus),
        halo_bytes=int(partition.pixels.sum(axis=1).max()) * 8 * THIN**2,
        neighbours=int((partition.pixels > 0).sum(axis=1).max()),
        interior=float(np.mean([1 - partition.border(rank).mean() for rank in sample])),
        tile_pixels=max((a.stop - a.start) * (b.stop - b.start) for a, b in partition.tiles) * THIN**2,
    )


def topology(gpus: int, machine: Machine) -> Topology:
    return Topology.of([rank // machine.gpus_per_node for rank in range(gpus)], gpus)


def link(gpus: int, machine: Machine) -> tuple[float, float]:
    """Return bytes a second and latency of the slowest link in a group."""
    inside = gpus <= machine.gpus_per_node
    return (
        (machine.node_gbs * 1e9, machine.node_us * 1e-6)
        if inside
        else (machine.network_gbs * 1e9, machine.network_us * 1e-6)
    )


def sum_seconds(numbers: int, gpus: int, machine: Machine) -> float:
    """Two levels: members to leader and back, leaders piece by piece. Every leader works at the same time."""
    sent = topology(gpus, machine).reduce_bytes(0, numbers, 4)
    seconds = 2 * (sent["node"] / (machine.node_gbs * 1e9) + machine.node_us * 1e-6) if gpus > 1 else 0.0
    nodes = len(topology(gpus, machine).nodes)
    if nodes > 1:
        seconds += sent["global"] / (machine.network_gbs * 1e9) + 2 * machine.network_us * 1e-6 * math.log2(nodes)
    return seconds


def waves_gb(gpus: int) -> float:
    return min(BATCH, geometry(gpus).frames) * MODES * FRAME**2 * 8 * 4 / 1e9


def compute_seconds(gpus: int, machine: Machine) -> float:
    return geometry(gpus).frames * MODES * machine.frame_us * 1e-6


def ours(gpus: int, machine: Machine) -> View:
    where, (speed, latency), k = geometry(gpus), link(gpus, machine), machine.exchanges
    compute = compute_seconds(gpus, machine)
    halo = where.halo_bytes / speed + latency * where.neighbours
    exposed = max(0.0, halo - where.interior * compute / k)  # the interior hides the rest
    summed = sum_seconds(PROBE_NUMBERS, gpus, machine)
    sent = where.halo_bytes + sum(topology(gpus, machine).reduce_bytes(0, PROBE_NUMBERS, 4).values())
    data = where.frames * FRAME**2 * 2
    memory = data + where.tile_pixels * (8 + 8 + 4) + 2 * where.halo_bytes  # object, copy, light; both ways
    return View(compute + k * (exposed + summed), k * sent, memory / 1e9 + waves_gb(gpus))


def whole_object(gpus: int, machine: Machine) -> View:
    """Ring all-reduce of object and its light after every minibatch; each GPU holds the whole object."""
    (speed, latency), size = link(gpus, machine), (8 + 4) * OBJECT**2
    sent = math.ceil(2 * (gpus - 1) / gpus * (size + 4 * PROBE_NUMBERS))
    each = sent / speed + 2 * latency * math.log2(gpus)
    memory = geometry(gpus).frames * FRAME**2 * 2 + OBJECT**2 * (8 + 8 + 4)
    seconds = compute_seconds(gpus, machine) + machine.minibatches * each
    return View(seconds, machine.minibatches * sent, memory / 1e9 + waves_gb(gpus))


def job(views: int, gpus: int, exchange: Any, machine: Machine) -> dict[str, float | int | str]:
    """Return the fastest way to do a job: groups of GPUs, each with a view at a time."""
    sizes = [group for group in GPUS if group <= gpus]
    ways = {group: math.ceil(views / (gpus // group)) * EPOCHS * exchange(group, machine).epoch_s for group in sizes}
    group = min(ways, key=ways.__getitem__)
    read = views * FRAMES * FRAME**2 * 2 / (machine.storage_gbs * 1e9)
    view = exchange(group, machine)
    return {
        "gpus_per_view": group,
        "compute_s": ways[group],
        "transfer_s": read,
        "total_s": max(read, ways[group]),
        "limit": "transfer" if read > ways[group] else "compute",
        "epoch_bytes_per_gpu": view.epoch_bytes,
        "memory_gb": round(view.memory_gb, 2),
    }


def predict(machine: Machine) -> dict[str, Any]:
    one = ours(1, machine).epoch_s
    exchanges = {"ours": ours, "whole_object": whole_object}
    return {
        "one_view": {
            str(gpus): {
                name: asdict(view) | {"efficiency": round(one / gpus / view.epoch_s, 3)}
                for name, view in ((name, exchange(gpus, machine)) for name, exchange in exchanges.items())
            }
            for gpus in GPUS
        },
        "jobs": {
            name: {
                str(gpus): {key: job(views, gpus, exchange, machine) for key, exchange in exchanges.items()}
                for gpus in GPUS
            }
            for name, views in JOBS.items()
        },
    }


def time_text(seconds: float) -> str:
    for unit, size in (("y", 31557600), ("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 1.5 * size or unit == "s":
            return f"{seconds / size:.3g} {unit}"
    return ""


def tables(found: dict[str, Any]) -> str:
    rows = [
        "| GPUs in one view | epoch | efficiency | MB sent an epoch | GB held | whole object: epoch | efficiency "
        "| MB sent | GB held |",
        "|" + "---|" * 9,
    ]
    for gpus, both in found["one_view"].items():
        cells = []
        for name in ("ours", "whole_object"):
            view = both[name]
            cells += [
                f"{1e3 * view['epoch_s']:.3g} ms",
                f"{view['efficiency']:.2f}",
                f"{view['epoch_bytes'] / 1e6:.4g}",
                f"{view['memory_gb']:.3g}",
            ]
        rows.append(f"| {gpus} | " + " | ".join(cells) + " |")
    rows += [
        "",
        "| job | " + " | ".join(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS) + " |",
        "|" + "---|" * (len(GPUS) + 1),
    ]
    for name, columns in found["jobs"].items():
        cells = [
            f"{time_text(one['ours']['compute_s'])} ({one['ours']['gpus_per_view']})"
            + (" *" if one["ours"]["limit"] == "transfer" else "")
            for one in columns.values()
        ]
        rows.append(f"| {name}, read in {time_text(columns['1']['ours']['transfer_s'])} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def picture(path: Path, found: dict[str, Any]) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for name, label in (("ours", "halos, 4 an epoch"), ("whole_object", "whole object, 20 an epoch")):
        views = [both[name] for both in found["one_view"].values()]
        panels[0].loglog(GPUS, [view["epoch_s"] for view in views], "o-", label=label)
        panels[1].loglog(GPUS[1:], [view["epoch_bytes"] / 1e6 for view in views[1:]], "o-")
        panels[2].loglog(GPUS, [view["memory_gb"] for view in views], "o-")
    panels[0].loglog(GPUS, found["one_view"]["1"]["ours"]["epoch_s"] / np.array(GPUS), "k:", label="ideal")
    panels[0].legend(fontsize=8)
    for axes, text in zip(
        panels, ("seconds an epoch", "MB sent an epoch, busiest GPU", "GB held by a GPU"), strict=True
    ):
        axes.set_title(f"one view of 5 GB: {text}", fontsize=9)
        axes.set_xlabel("GPUs")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Machine()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--table", action="store_true", help="Markdown instead of JSON")
    parser.add_argument("--picture", type=Path)
    given = vars(parser.parse_args())
    table, path = given.pop("table"), given.pop("picture")
    machine = replace(Machine(), **given)
    found = predict(machine)
    if path:
        picture(path, found)
    print(tables(found) if table else json.dumps({"benchmark": "scaling_model", "constants": asdict(machine)} | found))


if __name__ == "__main__":
    main()
