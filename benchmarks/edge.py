"""The live image as it runs: a detector's frames through shared memory and the edge process to the mosaic.

``python benchmarks/edge.py`` (or ``ptycho-bluesky bench edge``) prints one JSON object. Rows: a network, a backend and
a source, as fast as it goes (``sustained``), at 100 Hz (``paced``), and 1 kHz for two seconds (``burst``): frames/s,
drops, latency from hand-over to mosaic, and the share of one core of the edge process, of the producer, and of all but
the network. Floors of the same run, on one core: copy of a frame, the pass before the network, matrix products, mosaic.
``--only`` takes rows whose name contains a text, and may be given several times. ``published`` is the PtychoNN of APS
26-ID where ``PTYCHO_BLUESKY_DATA`` names its weights, else one of its shape with random weights, which is as fast;
it is shown measured frames of a Siemens star where they are there, ProbeViT simulated ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.formats import load_dataset
from ptycho_bluesky.inference import Mosaic, PtychoNNPhase, load_model
from ptycho_bluesky.inference._binning import Binner
from ptycho_bluesky.inference._mosaic import warm_up
from ptycho_bluesky.inference.backends import BackendOptions
from ptycho_bluesky.stream import LiveSession
from ptycho_bluesky.stream.sources import SourceEnded, open_source

SIZE, DISTINCT, STEP, ACROSS = 512, 32, 4, 30
BACKENDS = ("torch:f32", "torch:bf16", "openvino:f32", "openvino:bf16", "openvino:int8", "onnxruntime:f32")
WARM_FRAMES = 64


@dataclass(frozen=True)
class Row:
    """What is measured."""

    network: str
    backend: str
    source: str
    mode: str

    @property
    def name(self) -> str:
        return f"{self.network} {self.backend} {self.source} {self.mode}"


def rows() -> list[Row]:
    found = [Row(net, one, "ring", "sustained") for net in ("probe-vit", "published") for one in BACKENDS]
    for mode in ("paced", "burst"):
        found += [Row("probe-vit", "openvino:bf16", "ring", mode), Row("published", "openvino:int8", "ring", mode)]
    return found + [Row("probe-vit", "openvino:bf16", kind, "sustained") for kind in ("eiger", "hdf5", "pva")]


def beam() -> np.ndarray:
    """Return the probe (3, 512, 512) of a beam 20 pixels wide."""
    x = np.arange(SIZE) - SIZE // 2
    main = np.exp(-(x[:, None] ** 2 + x[None] ** 2) * (1 / 128 - 0.01j))
    return np.stack([main, 0.08 * main * x[None], 0.05 * main * x[:, None]]).astype(np.complex64)


def patterns() -> np.ndarray:
    """Return frames (DISTINCT, 512, 512) uint16 of half a million counts."""
    rng, probe = np.random.default_rng(0), beam()
    blur = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)) < 0.05
    frames = np.empty((DISTINCT, SIZE, SIZE), np.uint16)
    for frame in frames:
        phase = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIZE, SIZE))) * blur).real
        intensity = (np.abs(np.fft.fft2(probe * np.exp(4j * phase), norm="ortho")) ** 2).sum(axis=0)
        frame[:] = rng.poisson(np.fft.fftshift(5e5 * intensity / intensity.sum()))
    return frames


def spread(frames: np.ndarray) -> np.ndarray:
    """Return frames (B, 512, 512) uint16 whose 4 x 4 sums are measured ones (B, 128, 128)."""
    fine = np.zeros((len(frames), SIZE, SIZE), np.uint16)
    fine[:, ::4, ::4] = np.minimum(frames, 65_534)
    return fine


def measured() -> np.ndarray | None:
    """Return frames of the measured Siemens star for the published network, or None where there are no data."""
    data = settings().data
    if data is None or not (file := data / "siemens_star_small.npz.bz2").is_file():
        return None
    return spread(np.asarray(load_dataset(file).frames[:200]))


def published(folder: Path) -> Path:
    """Return the file of the published network's weights."""
    data = settings().data
    if data is not None and (file := data / "ptychonn_26id_phase.pth").is_file():
        return file
    torch.manual_seed(0)
    torch.save(PtychoNNPhase().state_dict(), folder / "ptychonn.pth")
    return folder / "ptychonn.pth"


def best(work: Callable[[], object], seconds: float = 0.3) -> float:
    """Return the seconds of the fastest of some calls."""
    work()
    fastest, end = np.inf, time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        work()
        fastest = min(fastest, time.perf_counter() - begun)
    return float(fastest)


def floors(frames: np.ndarray) -> dict[str, float]:
    """Return what no code on this machine can be faster than, and what the steps beside the network take."""
    room, patch, mosaic = np.empty_like(frames[0]), np.ones((64, 64), np.float32), Mosaic()
    fitting = load_model().for_probe(beam(), None, SIZE).fitting
    warm_up()
    mosaic.reserve((0.0, 0.0), (200, 200))
    found = {"copy_us": 1e6 * best(lambda: np.copyto(room, frames[0]))}
    binner, places = Binner(np.zeros(frames[0].shape, bool)), fitting.places()
    found["mask_bin_us"] = 1e6 * best(lambda: binner(frames[0], places, 65_535))
    found["mosaic_us"] = 1e6 * best(lambda: mosaic.add(patch, patch, patch, (10.3, 20.7), 0.1))
    n = 512
    for name, kind in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n).to(kind) for _ in range(2))
        found[f"gemm_{name}_gflops"] = 2e-9 * n**3 / best(lambda a=a, b=b: a @ b, 1.0)
    a, b = (torch.randint(-99, 99, (n, n), dtype=torch.int8) for _ in range(2))
    found["gemm_int8_gops"] = 2e-9 * n**3 / best(lambda: torch._int_mm(a, b), 1.0)
    return {key: round(value, 1) for key, value in found.items()}


def network_cost(row: Row, model: str, frames: np.ndarray, threads: int) -> dict[str, float]:
    """Return processor milliseconds of the network for one frame, one and eight at a time, and what it deviates by."""
    loaded, probe = load_model(model), beam()
    known = probe if row.network == "probe-vit" else None
    more: dict[str, Any] = {} if row.network == "probe-vit" else {"calibration": frames.astype(np.float32)}
    options = BackendOptions.model_validate({"name": row.backend, "threads": threads})
    predictor = loaded.for_probe(known, None, SIZE, backend=options, **more)
    exact = loaded.for_probe(known, None, SIZE)
    fitted = predictor.fitting.frames(frames[-16:].astype(np.float32))
    one, other = predictor.engine(fitted), exact.engine(fitted)
    light = np.ones(fitted.shape[1:]) if known is None else predictor(fitted).weight
    gap = np.angle(np.exp(1j * (one.phase - other.phase)))
    found = {"rms_rad": round(float(np.sqrt((gap**2 * light).mean() / light.mean())), 5)}
    for count in (1, 8):
        batch, costs = fitted[:count], []
        for _ in range(40):
            begun = time.process_time()
            predictor.engine(batch)
            costs.append((time.process_time() - begun) / count)
        found[f"network_ms_{count}"] = round(1e3 * float(np.median(costs[5:])), 3)
    return found


def positions(index: int) -> tuple[float, float]:
    """Return the place (y, x), object pixels, of a frame on a raster that begins anew every 900 frames."""
    row, column = divmod(index % ACROSS**2, ACROSS)
    return float(STEP * row) + 0.3, float(STEP * column) + 0.6


def simulated(row: Row, folder: Path, seconds: float) -> Iterator[tuple[int, np.ndarray]]:
    """Yield numbers and pixels that a simulated detector in a process of its own sends, as fast as they are taken."""
    count = str(int(seconds * 1500))
    where = {"eiger": "19991", "hdf5": str(folder / f"{uuid.uuid4()}.h5"), "pva": "bench:edge"}[row.source]
    uri = {"eiger": f"eiger://127.0.0.1:{where}", "hdf5": f"hdf5://{where}#/entry/data/data", "pva": f"pva://{where}"}
    rate = "1000" if row.source == "pva" else "0"  # where nothing holds the sender back, frames would be lost
    command = [sys.executable, "-m", "ptycho_bluesky.cli", "simulate", row.source, where, "--frames", count]
    command += ["--rate", rate, "--start-delay", "2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as detector:
        try:
            end = time.monotonic() + seconds + 15
            with open_source(uri[row.source]) as source:
                while time.monotonic() < end:
                    yield from ((one.index, one.pixels) for one in source.read(0.2))
        except SourceEnded:
            return
        finally:
            detector.terminate()


def offered(
    row: Row, frames: np.ndarray, folder: Path, seconds: float, rate: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the frames of a row, when they are due."""
    if row.source != "ring":
        yield from simulated(row, folder, seconds)
        return
    begun, index = time.perf_counter(), 0
    while (now := time.perf_counter() - begun) < seconds:
        if rate and index / rate > now:
            time.sleep(index / rate - now)
        yield index, frames[index % len(frames)]
        index += 1


def run(row: Row, model: str, frames: np.ndarray, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one row."""
    seconds = {"sustained": given.seconds, "paced": given.paced_seconds, "burst": 2.0}[row.mode]
    rate = {"sustained": 0.0, "paced": given.rate, "burst": 1000.0}[row.mode]
    found = network_cost(row, model, frames, given.threads)
    metadata = PtychographyMetadata(frames_key="frames", position_keys=("y", "x"), position_unit="px")
    block = metadata.model_dump(mode="json")
    probe = beam() if row.network == "probe-vit" else None
    more: dict[str, Any] = {"batch": given.batch, "ring_mib": given.ring_mib, "threads": given.threads}
    with LiveSession(model, probe=probe, folder=folder, backend=row.backend, **more) as session:
        session.wait_ready(120)
        _frames(session, block, ((k, frames[k % len(frames)]) for k in range(WARM_FRAMES)), wait=True)
        edge = psutil.Process(session.status().pid)
        before, own, begun = sum(edge.cpu_times()[:2]), time.process_time(), time.perf_counter()
        result = _frames(session, block, offered(row, frames, folder, seconds, rate), wait=row.mode == "sustained")
        spent = time.perf_counter() - begun
        busy, own = sum(edge.cpu_times()[:2]) - before, time.process_time() - own
    done, batch = result["frames_inferred"], 1 if row.mode == "paced" else 8
    network = done * found[f"network_ms_{batch}"] / 1e3
    keys = (
        "frames_inferred",
        "frames_dropped",
        "frames_refused",
        "frames_per_second",
        "latency_ms_p50",
        "latency_ms_p95",
    )
    return {
        "name": row.name,
        **{key: result[key] for key in keys},
        "gbit_per_second": round(result["frames_per_second"] * frames[0].nbytes * 8e-9, 3),
        "edge_share": round(busy / spent, 3),
        "producer_share": round(own / spent, 3),
        "beside_network_share": round((busy + own - network) / spent, 3),
        **found,
    }


def _frames(
    session: LiveSession, block: dict[str, Any], frames: Iterator[tuple[int, np.ndarray]], wait: bool
) -> dict[str, Any]:
    """Hand frames over as one run and return its statistics."""
    uid = str(uuid.uuid4())
    session.begin(uid, block)
    for index, pixels in frames:
        while wait and not session.has_room(pixels.nbytes):
            time.sleep(5e-4)
        session.put(pixels, index, *positions(index))
    session.end("success")
    return session.wait_result(uid, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="text in a row's name; may be given again")
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a sustained row")
    parser.add_argument("--paced-seconds", type=float, default=60.0, help="of a paced row")
    parser.add_argument("--rate", type=float, default=100.0, help="frames a second of a paced row")
    parser.add_argument("--batch", type=int, default=16, help="frames for one call of the network, at most")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the edge process")
    parser.add_argument("--ring-mib", type=int, default=1024, help="shared memory for frames that wait")
    parser.add_argument("--json", action="store_true", help="for symmetry: JSON is all it prints")
    given = parser.parse_args()
    chosen = [row for row in rows() if not given.only or any(text in row.name for text in given.only)]
    if given.list:
        print("\n".join(row.name for row in chosen))
        return
    torch.set_num_threads(1)
    frames = patterns()
    found: dict[str, Any] = {
        "benchmark": "edge",
        "machine": f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "frame": f"{SIZE}x{SIZE} uint16",
        "floors": floors(frames),
        "load_before": os.getloadavg()[0],
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        models = {"probe-vit": "default", "published": str(published(Path(folder)))}
        star = measured()
        shown = {"probe-vit": frames, "published": frames if star is None else star}
        for row in chosen:
            try:
                result = run(row, models[row.network], shown[row.network], Path(folder), given)
            except PtychoError as error:
                result = {"name": row.name, "fault": f"{type(error).__name__}: {error}"}
            found["rows"].append({**result, "load": round(os.getloadavg()[0], 1)})
            print(json.dumps(found["rows"][-1]), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
