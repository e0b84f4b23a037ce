"""A console for tests: devices that need nothing, a scan, and a process that runs it with live inference."""

import sys
import time
from pathlib import Path

import bluesky.plan_stubs as bps
import numpy as np
from bluesky import RunEngine
from edge_models import frame_at

from ptycho_bluesky.callbacks import LiveInference
from ptycho_bluesky.experiment import PatternInfo, PtychographyMetadata

SIZE = 64


class Point:
    """A readable that gives the place and the frame it is told to."""

    name, parent = "point", None

    def __init__(self, size=SIZE):
        self.value = {"det": np.zeros((size, size)), "y": 0.0, "x": 0.0}

    def describe(self):
        array = {"dtype": "array", "shape": list(self.value["det"].shape), "source": "test"}
        number = {"dtype": "number", "shape": [], "source": "test"}
        return {"det": array, "y": number, "x": number}

    def read(self):
        return {key: {"value": value, "timestamp": time.time()} for key, value in self.value.items()}

    def describe_configuration(self):
        return {}

    def read_configuration(self):
        return {}


def places(count, extent=80, seed=1):
    rng, side = np.random.default_rng(seed), int(np.ceil(np.sqrt(count)))
    for k in range(count):
        yield (np.array(divmod(k, side)) + rng.uniform(-0.4, 0.4, 2)) * extent / side


def block(count, **changes):
    pattern = PatternInfo(name="list", num_points=count)
    given = {"frames_key": "det", "position_keys": ("y", "x"), "position_unit": "px", "pattern": pattern, **changes}
    return PtychographyMetadata(**given).to_start()


def scan(count, *, each=lambda k: None, spoil=lambda k, frame: frame, pause_s=0.002, md=None):
    """A plan: `count` frames of a known object; `each` is called after every event, `spoil` changes frames."""
    point = Point()
    uid = yield from bps.open_run({"ptychography": block(count)} if md is None else md)
    for k, (y, x) in enumerate(places(count)):
        point.value = {"det": frame_at(y, x), "y": float(y), "x": float(x)}
        if k:
            point.value["det"] = spoil(k, point.value["det"])
        yield from bps.create("primary")
        yield from bps.read(point)
        yield from bps.save()
        each(k)
        time.sleep(pause_s)
    yield from bps.close_run()
    return uid


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(model, folder, count):
    RE = RunEngine({})
    live = LiveInference(model, folder=Path(folder), ring_mib=4)
    RE.subscribe(live)
    live.wait_ready(60)
    say(live.name)

    def each(k):
        if k == 20:
            say("halfway")

    RE(scan(int(count), each=each, pause_s=0.01))
    say(live.wait(60)["frames_inferred"])
    live.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
