"""Reconstruction on ranks that are processes of their own, each with what it can have of one process's options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from waiting import free_port

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction, align_phase, fermat
from ptycho_bluesky.formats import load_dataset, read_reconstruction, save_dataset
from ptycho_bluesky.optics import disc_probe, siemens_star, simulate_dataset, zone_plate_probe
from ptycho_bluesky.reconstruction.distributed import Partition, RankSpec, light_box, reconstruct_ranks

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.timeout(300)]

SIZE = 64
GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
PIXEL = GEOMETRY.pixel_size_m(SIZE)
OPTIONS = {"epochs": 30, "modes": 1}
TOGETHER = {"exchanges": 4, "timeout_s": 60}


def probe(defocus_m: float) -> np.ndarray:
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    return zone_plate_probe(SIZE, PIXEL, GEOMETRY.wavelength_m, defocus_m=defocus_m, **optics)[None]


def star(field_px: int) -> PtychoDataset:
    pattern = fermat(field_px * PIXEL, field_px * PIXEL, 9 * PIXEL)
    obj = siemens_star((field_px + 90,) * 2, spokes=20, rings=3)
    return simulate_dataset(obj, probe(150e-6), pattern, GEOMETRY, 1e6, probe_guess=probe(160e-6))


def half_dark(dataset: PtychoDataset) -> PtychoDataset:
    frames = np.array(dataset.frames[:])
    frames[dataset.positions[:, 0] < -80 * PIXEL] = 0
    return replace(dataset, frames=frames)


def misplaced(dataset: PtychoDataset) -> PtychoDataset:
    """Each twentieth frame is off by more than the margin of a tile."""
    rng, positions = np.random.default_rng(1), dataset.positions.copy()
    lost = rng.choice(len(dataset), len(dataset) // 20, replace=False)
    angles = rng.uniform(0, 2 * np.pi, len(lost))
    positions[lost] += 10 * PIXEL * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return replace(dataset, positions=positions)


def near_field() -> PtychoDataset:
    geometry = Geometry(
        energy_kev=12.0, distance_m=1.0, detector_pixel_m=55e-6, modality="near-field", focus_to_sample_m=4e-3
    )
    pixel = geometry.pixel_size_m(SIZE)
    pattern = fermat(60 * pixel, 60 * pixel, 6 * pixel)
    snapped = replace(pattern, positions=np.rint(pattern.positions / pixel) * pixel)
    diffuser = scipy.ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(SIZE, SIZE)), 3)
    light = disc_probe(SIZE, pixel, diameter_m=40 * pixel) * np.exp(40j * diffuser).astype(np.complex64)
    found = simulate_dataset(siemens_star((150, 150), spokes=16, rings=1), light, snapped, geometry, 1e6)
    return found


@dataclass
class Job:
    """One reconstruction and the processes, of four, that are its ranks."""

    processes: tuple[int, ...]
    dataset: str = "star"
    engine: str = "fast"
    options: dict[str, Any] = field(default_factory=lambda: OPTIONS)
    together: dict[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    ranks: int | None = None
    """How many are waited for, where not all are there."""


NEAR = {"epochs": 30, "modes": 1}
MODES = {"epochs": 30, "modes": 2, "momentum": 0.3}
VARIED = {"epochs": 6, "modes": 2, "opr": 1, "background": True, "position_correction": True}
SLICED = NEAR | {"epochs": 4, "slices": 2, "slice_distance_m": 2e-6, "near_field": "angular-spectrum"}
JOBS = {
    "4": Job((0, 1, 2, 3)),
    "2": Job((0, 1)),
    "1": Job((2,)),
    "narrow": Job((0, 1), together={"wire": "bfloat16", "nodes": [0, 1]}),
    "slow": Job((0, 1), "small", options=NEAR | {"epochs": 4}, together={"balance": "measured"}, faults=("slow",)),
    "weighted": Job((0, 1), "small", options=NEAR | {"epochs": 2}, together={"weights": [3, 1]}),
    "moved": Job((2, 3), "misplaced", options=OPTIONS | {"position_correction": True, "epochs": 60}),
    "broken": Job((2, 3), "half_dark", together={"checkpoint_share": 1}, faults=("nan", "full")),
    "near 1": Job((3,), "near_field", options=NEAR),
    "near 2": Job((2, 3), "near_field", options=NEAR),
    "modes 1": Job((0,), "small", options=MODES),
    "modes 2": Job((0, 1), "small", options=MODES),
    "lsqml 1": Job((2,), "small", "lsqml", VARIED),
    "lsqml 2": Job((0, 1), "small", "lsqml", VARIED),
    "lsqml nan": Job((2, 3), "small", "lsqml", {"epochs": 4, "modes": 1}, faults=("nan",)),
    "slices 1": Job((2,), "near_field", options=SLICED),
    "slices 2": Job((2, 3), "near_field", options=SLICED),
    "alone": Job((0,), together={"timeout_s": 1}, ranks=2),
}


@dataclass(frozen=True)
class Found:
    folder: Path
    said: dict[str, list[str]]
    """What each rank of a job logged."""

    def __getitem__(self, name: str) -> Reconstruction:
        return read_reconstruction(self.folder / name / "result.h5")


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """All jobs, done by four processes."""
    folder, given = tmp_path_factory.mktemp("ranks"), star(240)
    scans = {"star": given, "half_dark": half_dark(given), "misplaced": misplaced(given), "near_field": near_field()}
    scans["small"] = star(120)
    for name, dataset in scans.items():
        save_dataset(folder / f"{name}.cxi", dataset)
    plans: list[list[dict[str, Any]]] = [[], [], [], []]
    for name, job in JOBS.items():
        here, port, size = folder / name, free_port(), job.ranks or len(job.processes)
        here.mkdir()
        spec = RankSpec(
            dataset=folder / f"{job.dataset}.cxi",
            engine=job.engine,
            options=job.options,
            ranks=TOGETHER | job.together,
            folder=here,
            output=here / "result.h5",
        )
        (here / "spec.json").write_text(spec.model_dump_json())
        for rank, process in enumerate(job.processes):
            told = {"name": name, "spec": str(here / "spec.json"), "faults": job.faults}
            plans[process].append(told | {"environment": environment(rank, size, port)})
    program = Path(__file__).with_name("ranks_at_work.py")
    processes = [
        subprocess.Popen(
            [sys.executable, program, json.dumps(plan)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for plan in plans
    ]
    said: dict[str, list[str]] = {}
    try:
        for process in processes:
            out, errors = process.communicate(timeout=280)
            assert process.returncode == 0, errors
            for line in out.splitlines():
                for name, text in json.loads(line).items():
                    said.setdefault(name, []).append(text)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    yield Found(folder, said)


def difference_rad(one: Reconstruction, other: Reconstruction) -> float:
    """Root mean square without the free phase and ramp, inside the field."""
    over, under, _ = align_phase(other.phase, one.phase)
    return float(np.sqrt(np.nanmean((over - under) ** 2)))


@pytest.mark.parametrize("ranks", ["2", "4"])
def test_any_number_of_ranks_gives_one_answer(found: Found, ranks: str) -> None:
    one, many = found["1"], found[ranks]
    assert many.r_factor == pytest.approx(one.r_factor, rel=0.01)
    assert difference_rad(one, many) < 0.02
    assert many.provenance["ranks"] == int(ranks) and len(many.errors) == OPTIONS["epochs"]


@pytest.mark.parametrize("ranks", [2, 4])
def test_there_is_no_seam(found: Found, ranks: int) -> None:
    one, many = found["1"], found[str(ranks)]
    corners = load_dataset(found.folder / "star.cxi").object_grid().corners
    partition = Partition.of(corners, SIZE, many.object.shape[1:], ranks, light=light_box(many.probe))
    owners = np.zeros(many.object.shape[1:])
    for rank in range(ranks):
        owners[partition.tiles[rank]] += partition.lit(rank)
    borders = np.hypot(*np.gradient(owners)) > 0  # where tiles begin and end
    steeper = []
    for result in (many, one):  # the specimen's own edges are the same in both
        steep = np.hypot(*np.gradient(result.phase))
        steeper.append(np.nanmean(steep[borders]) / np.nanmean(steep[~borders]))
    assert steeper[0] < 1.1 * steeper[1]


def _of_rank(result: Reconstruction, key: str) -> list[int]:
    return [one[key] for one in result.provenance["distributed"]["of_rank"]]


def test_a_rank_holds_its_share_of_the_data(found: Found) -> None:
    held = {ranks: _of_rank(found[str(ranks)], "amplitude_bytes") for ranks in (1, 2, 4)}
    assert max(held[4]) < 0.26 * held[1][0] and max(held[2]) < 0.51 * held[1][0]
    both = {ranks: np.add(held[ranks], _of_rank(found[str(ranks)], "object_bytes")) for ranks in (1, 4)}
    assert max(both[4]) < 0.4 * both[1][0]
    assert len(found["4"].provenance["distributed"]["nodes"]) == 1


def _sent(result: Reconstruction, level: str) -> int:
    return int(result.provenance["distributed"]["of_rank"][0]["traffic"][level]["bytes"])


def test_bytes_are_those_of_the_partition(found: Found) -> None:
    exchanged = found["2"].provenance["distributed"]["partition"]["halo_bytes"]["most"]
    fine = exchanged * TOGETHER["exchanges"] * OPTIONS["epochs"]
    assert fine < _sent(found["2"], "halo") < 1.1 * fine  # a coarse start comes before: 8 epochs of a quarter


def test_few_bits_on_the_wire_cost_nothing(found: Found) -> None:
    narrow, wide = found["narrow"], found["2"]
    assert narrow.r_factor == pytest.approx(wide.r_factor, rel=0.01)
    assert difference_rad(narrow, wide) < 0.02
    assert _sent(narrow, "halo") == _sent(wide, "halo") / 2 and _sent(narrow, "global") > 0


def test_positions_are_corrected_across_borders(found: Found) -> None:
    """When frames that are far off find back they leave their tiles, and others become their owners."""
    result, true, wrong = (
        found["moved"],
        *(load_dataset(found.folder / f"{name}.cxi").positions for name in ("star", "misplaced")),
    )

    def rest(positions: np.ndarray) -> float:
        off = (positions - true) / PIXEL
        return float(np.sqrt(((off - off.mean(axis=0)) ** 2).sum(axis=1).mean()))

    assert result.provenance["distributed"]["divisions"] > 1
    assert rest(result.positions) < 0.95 * rest(wrong)
    assert result.r_factor < 0.11


@pytest.mark.parametrize("kind", ["modes", "near", "slices"])
def test_fast_has_on_ranks_what_it_has_alone(found: Found, kind: str) -> None:
    one, two = found[f"{kind} 1"], found[f"{kind} 2"]
    assert two.r_factor == pytest.approx(one.r_factor, rel={"modes": 0.01, "near": 0.02, "slices": 0.1}[kind])
    assert one.object.shape == two.object.shape and one.probe.shape == two.probe.shape
    assert np.isfinite(two.object).all()


def test_lsqml_sums_over_all_ranks(found: Found) -> None:
    """Modes, variation, background and positions: nearly the numbers of one process, from sums once an epoch."""
    one, two = found["lsqml 1"], found["lsqml 2"]
    assert two.r_factor == pytest.approx(one.r_factor, rel=0.003)
    assert difference_rad(one, two) < 0.01
    np.testing.assert_allclose(two.opr_weights, one.opr_weights, atol=0.01)
    assert np.linalg.norm(two.background - one.background) < 0.2 * np.linalg.norm(one.background)
    moved = np.linalg.norm(two.positions - one.positions, axis=1) / PIXEL
    assert np.sqrt((moved**2).mean()) < 0.2  # few frames tell little of background and positions


def test_a_nan_and_a_full_disk_on_one_rank_stop_nobody(found: Found) -> None:
    """And a rank whose frames are all dark does not starve: it is given others."""
    result, said = found["broken"], found.said["broken"]
    frames = load_dataset(found.folder / "half_dark.cxi").frames[:]
    dark = int((frames.sum(axis=(1, 2)) == 0).sum())
    assert all("taken back, step halved" in text for text in said + found.said["lsqml nan"])
    assert any("no checkpoint after epoch" in text and "going on without: rank 1: " in text for text in said)
    left = {file.name for file in (found.folder / "broken").iterdir()}
    assert "checkpoint.json" not in left and not [name for name in left if name.endswith(".part")]
    assert np.isfinite(result.object).all() and len(result.errors) == OPTIONS["epochs"]
    assert result.r_factor < 1.1 * found["1"].r_factor
    assert dark > 50 and result.provenance["frames_left_out"] == dark
    assert np.ptp(_of_rank(result, "frames")) <= 1


def test_a_slow_rank_is_given_less(found: Found) -> None:
    fast, slow = _of_rank(found["slow"], "frames")
    assert slow < 0.6 * fast
    more, less = _of_rank(found["weighted"], "frames")
    assert more == pytest.approx(3 * less, abs=3)


def test_a_peer_that_never_joins_is_named(found: Found) -> None:
    (said,) = found.said["alone"]
    assert "waited 1 s for rank 1" in said


@pytest.mark.parametrize(
    ("engine", "options", "together", "told"),
    [
        ("epie", {}, {}, "engine 'epie' does not work on several ranks"),
        ("fast", {"step": 5}, {}, r"step.*less than or equal to 2"),
        ("fast", {"opr": 1, "background": True}, {}, "does not have background, opr"),
        ("lsqml", {"batches": "sparse"}, {}, "batches 'compact'"),
        ("lsqml", {}, {"wire": "bfloat16"}, "wire 'float32'"),
        ("fast", {}, {"wires": 2}, "wires"),
    ],
)
def test_what_ranks_cannot_do_is_refused_before_they_start(
    found: Found, engine: str, options: dict[str, Any], together: dict[str, Any], told: str
) -> None:
    with pytest.raises(ReconstructionError, match=told):
        reconstruct_ranks(found.folder / "star.cxi", 2, engine, options, together=together, check=False)
