"""Ranks as users start them: by a call, by the command line, by torchrun on several nodes; and ranks that are lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, fermat
from ptycho_bluesky.formats import read_reconstruction, save_dataset
from ptycho_bluesky.optics import siemens_star, simulate_dataset, zone_plate_probe
from ptycho_bluesky.reconstruction.distributed import Progress, RankSpec, reconstruct_ranks

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.timeout(300)]

OPTIONS = {"epochs": 30, "modes": 1}
LONG = {"epochs": 200, "modes": 1}
TOGETHER = {"timeout_s": 60, "checkpoint_share": 0.2}
MODULE = "ptycho_bluesky.reconstruction.distributed"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of 150 pixels, 280 frames."""
    geometry = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
    pixel, path = geometry.pixel_size_m(64), tmp_path_factory.mktemp("started") / "scan.cxi"
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    probes = [
        zone_plate_probe(64, pixel, geometry.wavelength_m, defocus_m=1e-6 * d, **optics)[None] for d in (150, 160)
    ]
    pattern = fermat(150 * pixel, 150 * pixel, 9 * pixel)
    obj = siemens_star((240, 240), spokes=20, rings=3)
    save_dataset(path, simulate_dataset(obj, probes[0], pattern, geometry, 1e6, probe_guess=probes[1]))
    return path


def test_after_a_killed_rank_all_go_on_from_the_checkpoint(file: Path, tmp_path: Path) -> None:
    seen, killed = [], []

    def kill(progress: Progress) -> None:
        if not killed and (tmp_path / "checkpoint.json").exists():
            killed.append(progress.processes[1])
            os.kill(killed[0], signal.SIGKILL)
        seen.append(progress)

    result = reconstruct_ranks(file, 2, options=LONG, together=TOGETHER, folder=tmp_path, on_progress=kill)
    assert result.provenance["distributed"]["resumed_at_epoch"] >= 1
    assert len(result.errors) == LONG["epochs"] and result.r_factor < 0.12
    assert len({one.processes[0] for one in seen}) == 2


def test_all_killed_and_started_again_as_two(file: Path, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(progress: Progress) -> None:
        if (tmp_path / "checkpoint.json").exists():
            raise Cut

    common = {"options": LONG, "together": TOGETHER, "folder": tmp_path}
    with pytest.raises(Cut):
        reconstruct_ranks(file, 4, on_progress=cut, **common)
    result = reconstruct_ranks(file, 2, picture=tmp_path / "partition.png", **common)
    assert result.provenance["ranks"] == 2 and result.provenance["distributed"]["resumed_at_epoch"] >= 1
    assert result.r_factor < 0.12
    assert (tmp_path / "partition.png").read_bytes().startswith(b"\x89PNG")


def test_a_stop_keeps_what_there_is(file: Path) -> None:
    seen: list[Progress] = []
    result = reconstruct_ranks(
        file, 1, options={"epochs": 5000, "modes": 1}, should_stop=lambda: len(seen) > 5, on_progress=seen.append
    )
    assert result.provenance["stopped_early"] == "asked to stop"
    assert 5 < len(result.errors) < 5000 and result.r_factor < 0.2


def test_an_error_of_a_rank_is_raised_here(file: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(ReconstructionError, match="is damaged"):
        reconstruct_ranks(file, 1, options=OPTIONS, folder=tmp_path)


def test_torchrun_starts_ranks_on_two_nodes(file: Path, tmp_path: Path) -> None:
    spec = RankSpec(
        dataset=file,
        options=OPTIONS,
        ranks={"nodes": [0, 1], "timeout_s": 60},
        folder=tmp_path,
        output=tmp_path / "result.h5",
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    nodes = [
        subprocess.Popen(
            [*command, "--node-rank", str(node), "-m", MODULE, str(tmp_path / "spec.json")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    said = [node.communicate(timeout=100)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    result = read_reconstruction(tmp_path / "result.h5")
    found = result.provenance["distributed"]
    assert found["nodes"] == [[0], [1]] and result.r_factor < 0.12
    assert found["of_rank"][0]["traffic"]["global"]["bytes"] > 0


def test_the_module_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"dataset": "a.cxi", "engine": "epie"}))
    command = [sys.executable, "-m", MODULE, str(tmp_path / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "(3 faults): engine: Input should be 'fast'" in done.stderr
