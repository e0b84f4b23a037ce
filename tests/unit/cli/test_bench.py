"""``bench NAME``: finds the scripts of a checkout and hands the rest of the line on. The judge of the comparison."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from ptycho_bluesky.cli import _bench, app
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.experiment import fermat
from ptycho_bluesky.optics import siemens_star

runner = CliRunner()


@pytest.fixture
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_bench, "_folder", lambda: tmp_path)
    return tmp_path


def test_everything_after_the_name_goes_to_the_benchmark(benchmarks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (benchmarks / "echo.py").write_text("import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(3)")
    done = runner.invoke(app, ["bench", "echo", "--seconds", "5", "--help", "file.npz", "--json"])
    assert done.exit_code == 3
    assert json.loads(capfd.readouterr().out) == ["--seconds", "5", "--help", "file.npz", "--json"]


def test_a_wrong_name_is_answered_with_the_right_ones(benchmarks: Path) -> None:
    (benchmarks / "reconstruction.py").touch()
    done = runner.invoke(app, ["bench", "reconstructions"])
    assert isinstance(done.exception, PtychoError)
    assert str(done.exception) == "there is no benchmark 'reconstructions'; there are reconstruction"


def test_an_installed_package_tells_where_the_benchmarks_are(benchmarks: Path) -> None:
    done = runner.invoke(app, ["bench", "reconstruction"])
    assert isinstance(done.exception, PtychoError)
    assert "get the repository" in str(done.exception)


def test_a_checkout_has_both_benchmarks() -> None:
    assert {"reconstruction", "run_engine"} <= {script.stem for script in _bench._folder().glob("*.py")}


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_bench._folder()))


def model(rng: np.random.Generator, modes: int = 2, count: int = 20) -> dict[str, npt.NDArray[Any]]:
    def waves(*shape: int) -> npt.NDArray[np.complex64]:
        return np.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape), np.complex64)

    return {"object": waves(60, 64), "probe": waves(modes, 16, 16), "corners": rng.uniform(2, 40, (count, 2))}


def frames(snapshot: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """The same model in plain float64, frame by frame."""
    size, found, f = 16, [], np.fft.fftfreq(16)
    for k, corner in enumerate(snapshot["corners"]):
        (y, x), probe = np.rint(corner).astype(int), snapshot["probe"].astype(complex)
        rest = corner - (y, x)
        if "opr" in snapshot:
            weights = snapshot["opr_weights"][k]
            probe[0] = weights[0] * probe[0] + np.tensordot(weights[1:], snapshot["opr"], axes=1)
        if "mixing" in snapshot:
            probe = np.tensordot(snapshot["mixing"][k], probe, axes=1)
        probe = probe * snapshot.get("scales", np.ones(len(snapshot["corners"])))[k]
        ramp = np.exp(-2j * np.pi * (f[:, None] * rest[0] + f[None] * rest[1]))
        waves = np.fft.fft2(np.fft.ifft2(np.fft.fft2(probe) * ramp) * snapshot["object"][y : y + size, x : x + size])
        found.append(np.fft.fftshift((np.abs(waves) ** 2).sum(axis=0)) / size**2 + snapshot.get("background", 0))
    return np.asarray(found, np.float32)


@pytest.mark.parametrize("what", ["plain", "scales", "background", "mixing", "opr"])
def test_a_contestant_is_judged_by_its_own_model(side_by_side: None, what: str) -> None:
    from side_by_side.judge import r_factor

    rng = np.random.default_rng(0)
    snapshot = model(rng)
    more = {
        "plain": {},
        "scales": {"scales": rng.uniform(0.5, 1.5, 20)},
        "background": {"background": rng.uniform(0, 50, (16, 16))},
        "mixing": {"mixing": rng.normal(size=(20, 1, 2)) + 1j * rng.normal(size=(20, 1, 2))},
        "opr": {"opr": model(rng)["probe"][:1], "opr_weights": rng.normal(size=(20, 2))},
    }[what]
    amplitude = np.sqrt(frames(snapshot | more))
    assert r_factor(snapshot | more, amplitude) < 1e-5
    assert r_factor(snapshot | more | {"corners": snapshot["corners"] + 0.3}, amplitude) > 0.05
    if more:
        assert r_factor(snapshot, amplitude) > 0.05
    first_alone = {"shifted_modes": np.array(1)}
    if what != "mixing":
        assert r_factor(snapshot | more | first_alone, amplitude) > 0.01


def test_the_grid_of_a_contestant_does_not_matter(side_by_side: None) -> None:
    from side_by_side.judge import Halves, reconstruction

    pattern = fermat(60, 60, 8).positions
    specimen = siemens_star((140, 140))
    probe = np.exp(-(np.hypot(*np.mgrid[-16:16, -16:16]) ** 2) / 50).astype(np.complex64)[None]
    given = pattern - pattern.min(axis=0) + 10
    first = reconstruction({"object": specimen, "probe": probe, "corners": given}, given, "first")
    moved = {"object": np.pad(specimen, 7, constant_values=1), "probe": probe, "corners": given + 7}
    second = reconstruction(moved, given, "second")
    assert Halves.of(first, second).mean > 0.99
    assert second.phase_contrast_rad == pytest.approx(first.phase_contrast_rad, abs=0.05)


def test_the_verdict_compares_ours_with_the_best_peer(side_by_side: None) -> None:
    from side_by_side.verdict import verdict

    def found(engine: str, seconds: float, r: float) -> dict[str, Any]:
        reached = {"R<=0.2": 10 * seconds, "R<=0.17": 20 * seconds, "R<=0.155": None}
        halves = {"mean": 1 - r}
        return {
            "engine": engine,
            "group": "one mode",
            "s_per_epoch": seconds,
            "seconds_to": reached,
            "r_factor": r,
            "half_data_correlation": halves,
            "phase_contrast_rad": 1.2,
        }

    reports = {
        "ours": found("ours", 0.05, 0.14),
        "fast peer": found("cdtools", 1.0, 0.15),
        "slow peer": found("ptychi", 2.0, 0.13),
        "failed": {"engine": "ptychi", "skipped": "no reason"},
    }
    assert verdict(reports, 0.025) == {
        "times_floor": 2.0,
        "times_faster_per_epoch_than_the_fastest_peer": 20.0,
        "times_faster_to_R<=0.2_than_the_best_peer": 20.0,
        "times_faster_to_R<=0.17_than_the_best_peer": 20.0,
    }
