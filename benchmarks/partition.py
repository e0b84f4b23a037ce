"""What ranks exchange: Hilbert ranges beside stripes, random shares and a whole-object all-reduce.

``python benchmarks/partition.py`` prints one JSON object: for a 4,096 x 4,096 object, 256 x 256 frames and 8,048
positions of a Fermat spiral, the bytes that all ranks together send in one exchange. Two widths of the halo: all of the
frame, and the part that the probe lights (here the middle half: a probe fills at most half of its frame, or its
patterns are not sampled well enough). An all-reduce is that of a ring, which sends the least. Geometry alone: ranks are
counted, not started.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from ptycho_bluesky.experiment import fermat
from ptycho_bluesky.reconstruction.distributed._partition import Partition

OBJECT, FRAME, POSITIONS = 4096, 256, 8048
MIDDLE = (slice(64, 192), slice(64, 192))


def corners() -> np.ndarray:
    field = OBJECT - FRAME - 4
    places = fermat(field, field, field / np.sqrt(POSITIONS)).positions
    return places - places.min(axis=0) + 2


def all_reduce(ranks: int) -> int:
    """Bytes that all ranks send to sum one complex64 object in a ring."""
    return 2 * (ranks - 1) * 8 * OBJECT**2


def measure(places: np.ndarray, ranks: int, kinds: tuple[str, ...]) -> dict[str, object]:
    found: dict[str, object] = {"whole_object_all_reduce_bytes": all_reduce(ranks)}
    sent: dict[str, dict[str, int]] = {}
    for width, light in (("frame", None), ("lit", MIDDLE)):
        reports = {
            kind: Partition.of(places, FRAME, (OBJECT, OBJECT), ranks, kind, light=light).report() for kind in kinds
        }
        sent[width] = {kind: report["halo_bytes"]["all"] for kind, report in reports.items()}
        found[width] = reports
    found["hilbert_lit_over"] = {
        "whole_object_all_reduce": round(sent["lit"]["hilbert"] / all_reduce(ranks), 4),
        "stripes_of_frame_width": round(sent["lit"]["hilbert"] / sent["frame"]["stripes"], 4),
        "stripes_of_lit_width": round(sent["lit"]["hilbert"] / sent["lit"]["stripes"], 4),
    }
    found["hilbert_frame_over"] = {
        "whole_object_all_reduce": round(sent["frame"]["hilbert"] / all_reduce(ranks), 4),
        "stripes_of_frame_width": round(sent["frame"]["hilbert"] / sent["frame"]["stripes"], 4),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--random", action="store_true", help="random shares as well: minutes for 64 ranks")
    parser.add_argument("--picture", type=Path, help="PNG of the first number of ranks")
    given = parser.parse_args()
    places, began = corners(), time.process_time()
    kinds = ("hilbert", "stripes", "random") if given.random else ("hilbert", "stripes")
    report = {
        "benchmark": "partition",
        "object": OBJECT,
        "frame": FRAME,
        "positions": len(places),
        "ranks": {str(ranks): measure(places, ranks, kinds) for ranks in given.ranks},
    }
    report["seconds"] = round(time.process_time() - began, 1)
    if given.picture:
        Partition.of(places, FRAME, (OBJECT, OBJECT), given.ranks[0], light=MIDDLE).picture(given.picture)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
