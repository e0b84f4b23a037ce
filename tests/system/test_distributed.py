"""Reconstruction on ranks that are processes of their own, as users start them; and what goes wrong with them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction, align_phase, fermat
from ptycho_bluesky.formats import read_reconstruction, save_dataset
from ptycho_bluesky.optics import siemens_star, simulate_dataset, zone_plate_probe
from ptycho_bluesky.reconstruction.distributed import Partition, Progress, RankSpec, light_box, reconstruct_ranks

FAULTY = Path(__file__).with_name("faulty_rank.py")
SIZE = 64
GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
PIXEL = GEOMETRY.pixel_size_m(SIZE)
OPTIONS = {"epochs": 40, "modes": 1}
TOGETHER = {"exchanges": 8, "timeout_s": 60}


def probe(defocus_m: float) -> np.ndarray:
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    return zone_plate_probe(SIZE, PIXEL, GEOMETRY.wavelength_m, defocus_m=defocus_m, **optics)[None]


@pytest.fixture(scope="module")
def dataset() -> PtychoDataset:
    """A field of 240 pixels, 700 frames."""
    pattern = fermat(240 * PIXEL, 240 * PIXEL, 9 * PIXEL)
    return simulate_dataset(
        siemens_star((330, 330), spokes=20, rings=3), probe(150e-6), pattern, GEOMETRY, 1e6, probe_guess=probe(160e-6)
    )


@pytest.fixture(scope="module")
def file(dataset: PtychoDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("distributed") / "scan.cxi"
    save_dataset(path, dataset)
    return path


@pytest.fixture(scope="module")
def results(file: Path) -> dict[int, Reconstruction]:
    return {ranks: reconstruct_ranks(file, ranks, options=OPTIONS, together=TOGETHER) for ranks in (1, 2, 4)}


def difference(one: Reconstruction, other: Reconstruction) -> np.ndarray:
    """(Y, X) radians, without the free phase and ramp; NaN outside the field."""
    over, under, _ = align_phase(other.phase, one.phase)
    return over - under


def gradient(image: np.ndarray) -> np.ndarray:
    return np.hypot(*np.gradient(image))


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_one_answer(results: dict[int, Reconstruction], ranks: int) -> None:
    one, many = results[1], results[ranks]
    assert many.r_factor == pytest.approx(one.r_factor, rel=0.01)
    apart = difference(one, many)
    assert np.sqrt(np.nanmean(apart**2)) < 0.02
    assert many.provenance["ranks"] == ranks and len(many.errors) == OPTIONS["epochs"]


@pytest.mark.parametrize("ranks", [2, 4])
def test_there_is_no_seam(results: dict[int, Reconstruction], dataset: PtychoDataset, ranks: int) -> None:
    one, many = results[1], results[ranks]
    corners = dataset.object_grid().corners
    partition = Partition.of(corners, SIZE, many.object.shape[1:], ranks, light=light_box(many.probe))
    owners = np.stack(
        [np.pad(partition.lit(r), _around(partition.tiles[r], many.object.shape[1:])) for r in range(ranks)]
    ).sum(axis=0)
    borders = gradient(owners.astype(float)) > 0  # where tiles begin and end
    steeper = []
    for result in (many, one):  # the specimen's own edges are the same in both
        steep = gradient(result.phase)
        steeper.append(np.nanmean(steep[borders]) / np.nanmean(steep[~borders]))
    assert steeper[0] < 1.1 * steeper[1]


def _around(tile: tuple[slice, slice], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(part.start, length - part.stop) for part, length in zip(tile, shape, strict=True)]


def test_a_rank_holds_its_share_of_the_data(results: dict[int, Reconstruction]) -> None:
    held = {ranks: _of_rank(result, "amplitude_bytes") for ranks, result in results.items()}
    assert max(held[4]) < 0.26 * held[1][0] and max(held[2]) < 0.51 * held[1][0]
    both = {ranks: np.add(held[ranks], _of_rank(result, "object_bytes")) for ranks, result in results.items()}
    assert max(both[4]) < 0.4 * both[1][0]
    assert len(results[4].provenance["distributed"]["nodes"]) == 1


def _of_rank(result: Reconstruction, key: str) -> list[int]:
    return [one[key] for one in result.provenance["distributed"]["of_rank"]]


def test_bytes_are_those_of_the_partition(results: dict[int, Reconstruction]) -> None:
    found = results[2].provenance["distributed"]
    fine = found["partition"]["halo_bytes"]["most"] * TOGETHER["exchanges"] * OPTIONS["epochs"]
    sent = found["of_rank"][0]["traffic"]["halo"]["bytes"]
    assert fine < sent < 1.1 * fine  # a coarse start comes before, with a quarter of the pixels and 8 epochs


def test_few_bits_on_the_wire_cost_nothing(file: Path, results: dict[int, Reconstruction]) -> None:
    together = TOGETHER | {"wire": "bfloat16", "nodes": [0, 1]}
    result = reconstruct_ranks(file, 2, options=OPTIONS, together=together)
    assert result.r_factor == pytest.approx(results[2].r_factor, rel=0.01)
    sent, wide = (r.provenance["distributed"]["of_rank"][0]["traffic"]["halo"]["bytes"] for r in (result, results[2]))
    assert sent == wide / 2
    assert result.provenance["distributed"]["of_rank"][0]["traffic"]["global"]["bytes"] > 0


def test_positions_are_corrected_across_borders(dataset: PtychoDataset, file: Path) -> None:
    """Some frames are far off: when they find back they leave their tiles, and others become their owners."""
    rng, positions = np.random.default_rng(1), dataset.positions.copy()
    lost = rng.choice(len(dataset), len(dataset) // 20, replace=False)
    angles = rng.uniform(0, 2 * np.pi, len(lost))
    positions[lost] += 10 * PIXEL * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    wrong = replace(dataset, positions=positions)
    options = OPTIONS | {"position_correction": True, "epochs": 60}
    result = reconstruct_ranks(wrong, 2, options=options, together=TOGETHER, check=False)

    def rest(positions: np.ndarray) -> float:
        off = (positions - dataset.positions) / PIXEL
        return float(np.sqrt(((off - off.mean(axis=0)) ** 2).sum(axis=1).mean()))

    assert result.provenance["distributed"]["divisions"] > 1
    assert rest(result.positions) < 0.95 * rest(wrong.positions)
    assert result.r_factor < 0.11


def test_after_a_killed_rank_all_go_on_from_the_checkpoint(file: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []

    def kill(progress: Progress) -> None:
        if progress.epoch == 4 and not any(one.epoch == 4 for one in seen):
            os.kill(progress.processes[1], signal.SIGKILL)
        seen.append(progress)

    result = reconstruct_ranks(file, 2, options=OPTIONS, together=TOGETHER, folder=tmp_path, on_progress=kill)
    assert result.provenance["distributed"]["resumed_at_epoch"] >= 1
    assert len(result.errors) == OPTIONS["epochs"] and result.r_factor < 0.12
    assert len({one.processes[0] for one in seen}) == 2


def test_all_killed_and_started_again_as_two(file: Path, tmp_path: Path, results: dict[int, Reconstruction]) -> None:
    class Cut(Exception):
        pass

    def cut(progress: Progress) -> None:
        if progress.epoch == 4:
            raise Cut

    common = {"options": OPTIONS, "together": TOGETHER, "folder": tmp_path}
    with pytest.raises(Cut):
        reconstruct_ranks(file, 4, on_progress=cut, **common)
    result = reconstruct_ranks(file, 2, **common)
    assert result.provenance["ranks"] == 2 and result.provenance["distributed"]["resumed_at_epoch"] >= 1
    assert result.r_factor == pytest.approx(results[1].r_factor, rel=0.01)
    with pytest.raises(ReconstructionError, match="another reconstruction"):
        reconstruct_ranks(file, 2, **(common | {"options": OPTIONS | {"modes": 2}}))


def test_a_stop_keeps_what_there_is(file: Path) -> None:
    seen: list[Progress] = []
    result = reconstruct_ranks(
        file, 2, options={"epochs": 5000, "modes": 1}, should_stop=lambda: len(seen) > 5, on_progress=seen.append
    )
    assert result.provenance["stopped_early"] == "asked to stop"
    assert 5 < len(result.errors) < 5000 and result.r_factor < 0.2


def test_errors_of_ranks_are_raised_here(file: Path) -> None:
    with pytest.raises(ReconstructionError, match=r"step.*less than or equal to 2"):
        reconstruct_ranks(file, 2, options={"step": 5})
    with pytest.raises(ReconstructionError, match="engine 'lsqml' does not work on several ranks"):
        reconstruct_ranks(file, 2, "lsqml")


def start(folder: Path, dataset: Path, *faults: str, size: int = 2, present: int = 2, **together: object) -> list[str]:
    """Start ranks by hand, some with a fault; return what each said."""
    spec = RankSpec(
        dataset=dataset, options=OPTIONS, ranks=TOGETHER | together, folder=folder, output=folder / "result.h5"
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    meeting = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, FAULTY, folder / "spec.json", *faults],
            env={**os.environ, **meeting, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(present)
    ]
    return [process.communicate(timeout=100)[1] for process in started]


def test_a_nan_and_a_full_disk_on_one_rank_stop_nobody(
    dataset: PtychoDataset, tmp_path: Path, results: dict[int, Reconstruction]
) -> None:
    """And a rank whose frames are all dark does not starve: it is given others."""
    frames = np.array(dataset.frames[:])
    frames[dataset.positions[:, 0] < -80 * PIXEL] = 0
    dark = int((frames.sum(axis=(1, 2)) == 0).sum())
    save_dataset(tmp_path / "half.cxi", replace(dataset, frames=frames))
    said = start(tmp_path, tmp_path / "half.cxi", "nan", "full")
    result = read_reconstruction(tmp_path / "result.h5")
    assert any("taken back, step halved" in text for text in said)
    assert "no checkpoint after epoch 1, going on without: rank 1: " in said[0]
    assert not (tmp_path / "checkpoint.json").exists() and not list(tmp_path.glob("*.part"))
    assert np.isfinite(result.object).all() and len(result.errors) == OPTIONS["epochs"]
    assert result.r_factor < 1.1 * results[1].r_factor
    assert dark > 50 and result.provenance["frames_left_out"] == dark
    assert np.ptp(_of_rank(result, "frames")) <= 1


def test_a_slow_rank_is_given_less(file: Path, tmp_path: Path) -> None:
    start(tmp_path, file, "slow", balance="measured")
    fast, slow = _of_rank(read_reconstruction(tmp_path / "result.h5"), "frames")
    assert slow < 0.6 * fast


def test_a_peer_that_never_joins_is_named(file: Path, tmp_path: Path) -> None:
    (said,) = start(tmp_path, file, present=1, timeout_s=2)
    assert "waited 2 s for rank 1" in said


def test_the_module_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"dataset": "a.cxi", "engine": "epie"}))
    command = [sys.executable, "-m", "ptycho_bluesky.reconstruction.distributed", str(tmp_path / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "(3 faults): engine: Input should be 'fast'" in done.stderr
