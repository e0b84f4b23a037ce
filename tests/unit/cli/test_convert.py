"""``convert``: what it makes of measurements and results, and how it refuses."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_bluesky.cli import app
from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.formats import load_dataset, read_reconstruction
from tests.golden import truth

runner = CliRunner()
GOLDEN = Path(truth.__file__).parent


@pytest.fixture(autouse=True)
def home(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    use_home(tmp_path / "home")


def convert(*arguments: Any) -> dict[str, Any]:
    done = runner.invoke(app, ["convert", *map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_measurement_goes_through_all_formats(tmp_path: Path) -> None:
    chain = [GOLDEN / "cdtools.cxi", *(tmp_path / name for name in ("a.ptyd", "b.nxs", "c.npz", "d.cxi"))]
    for source, output in itertools.pairwise(chain):
        found = convert(source, output)
        assert found["kind"] == "measurement"
        assert (found["frames"], found["bytes"]) == (truth.COUNT, output.stat().st_size)
    last = load_dataset(chain[-1])
    np.testing.assert_array_equal(np.asarray(last.frames), truth.FRAMES)
    np.testing.assert_allclose(last.positions, truth.POSITIONS, atol=1e-6 * truth.PIXEL)


def test_a_result_goes_through_all_formats(tmp_path: Path) -> None:
    chain = [GOLDEN / "fold_slice_v5.mat", *(tmp_path / name for name in ("a.h5", "b.cxi", "c.ptyr", "d.npz"))]
    for source, output in itertools.pairwise(chain):
        assert convert(source, output)["kind"] == "result"
    assert convert(chain[-1], tmp_path / "e.h5", "--format", "product")["input_format"] == "product-npz"
    first, last = read_reconstruction(chain[0]), read_reconstruction(tmp_path / "e.h5")
    np.testing.assert_array_equal(last.object, first.object)
    np.testing.assert_allclose(last.positions, first.positions, atol=1e-9 * truth.PIXEL)
    np.testing.assert_allclose(last.origin, first.origin, atol=1e-9 * truth.PIXEL)
    assert last.provenance == first.provenance
    assert last.opr_weights is not None


def test_pixels_become_metres_where_the_geometry_is_given(tmp_path: Path) -> None:
    frames, positions = np.ones((6, 16, 16), np.uint16), np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "a.npz", frames=frames, positions=positions, positions_unit="px")
    with pytest.raises(FormatError, match="give energy_kev, distance_m and detector_pixel_m"):
        runner.invoke(app, ["convert", str(tmp_path / "a.npz"), str(tmp_path / "a.cxi")], catch_exceptions=False)
    geometry = ("--energy-kev", 8, "--distance-m", 2, "--detector-pixel-m", 75e-6)
    assert convert(tmp_path / "a.npz", tmp_path / "a.cxi", *geometry)["pixel_size_m"] == pytest.approx(truth.PIXEL)
    np.testing.assert_allclose(load_dataset(tmp_path / "a.cxi").positions, positions * truth.PIXEL)


def test_a_file_may_be_converted_into_itself(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "ptypy.ptyd", tmp_path / "a.ptyd")
    convert(tmp_path / "a.ptyd", tmp_path / "a.ptyd")
    np.testing.assert_array_equal(np.asarray(load_dataset(tmp_path / "a.ptyd").frames), truth.FRAMES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ptypy.ptyr", "a.npz", "--format", "ptyd"), "is a result, and ptyd holds measurements; choose hdf5, cxi"),
        (("ptypy.ptyd", "a.h5", "--format", "product"), "is a measurement, and product holds results; choose npz"),
        (("ptypy.ptyr", "a.h5", "--energy-kev", "8"), "energy_kev: these options describe a measurement"),
        (("ptypy.ptyr", "no/a.h5"), "cannot be written"),
        (("none.cxi", "a.h5"), "does not exist"),
        (("make.py", "a.h5"), "of no known format"),
    ],
)
def test_faults_are_told(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    source, output, *rest = arguments
    with pytest.raises(FormatError, match=words):
        runner.invoke(app, ["convert", str(GOLDEN / source), str(tmp_path / output), *rest], catch_exceptions=False)
    assert not [path for path in tmp_path.iterdir() if path.name != "home"]
