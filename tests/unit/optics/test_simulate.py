import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import (
    Geometry,
    Orientation,
    ScanPattern,
    fermat,
    from_positions,
    orientations,
)
from ptycho_bluesky.optics import (
    DetectorModel,
    PositionErrors,
    coherent_modes,
    diffraction,
    disc_probe,
    object_corners,
    propagator_for,
    random_specimen,
    simulate_dataset,
    truth_on_grid,
)

SIZE = 32
FAR = Geometry(energy_kev=10, distance_m=2, detector_pixel_m=75e-6)
NEAR = Geometry(energy_kev=12, distance_m=1, detector_pixel_m=50e-6, modality="near-field", focus_to_sample_m=2e-3)
OBJECT = random_specimen((120, 131), np.random.default_rng(8))
PROBE = coherent_modes(disc_probe(SIZE, 1.0, diameter_m=14), 2, 0.8, plane="sample")


def scan(geometry: Geometry) -> ScanPattern:
    pixel = geometry.pixel_size_m(SIZE)
    return fermat(40 * pixel, 50 * pixel, 8 * pixel)


@pytest.mark.parametrize("geometry", [FAR, NEAR], ids=["far", "near"])
def test_the_truth_on_its_grid_explains_the_frames(geometry: Geometry) -> None:
    dataset = simulate_dataset(OBJECT, PROBE, scan(geometry), geometry, 1e9, seed=1)
    assert dataset.faults() == [] and dataset.modality == geometry.modality
    assert dataset.pixel_size_m == geometry.pixel_size_m(SIZE)
    grid = dataset.object_grid()
    truth = truth_on_grid(OBJECT, grid, SIZE)
    assert truth.shape == grid.shape and truth.dtype == np.complex64 and dataset.probe is not None
    model = diffraction(dataset.probe, truth, grid.corners, propagator_for(geometry, geometry.modality, SIZE))
    measured, modelled = np.sqrt(np.asarray(dataset.frames)), np.sqrt(model)
    assert np.abs(measured - modelled).sum() / measured.sum() < 0.02  # what is left: interpolation at sharp edges


def test_the_truth_is_exact_where_the_grid_falls_on_whole_pixels() -> None:
    pixel = FAR.pixel_size_m(SIZE)
    pattern = from_positions(np.array([[-7, 3], [0, 0], [12, -20]]) * pixel)
    dataset = simulate_dataset(OBJECT, PROBE, pattern, FAR, 1e4)
    grid = dataset.object_grid(margin=4)
    top, left = 60 - 7 - 16 - 4, 65 - 20 - 16 - 4
    expected = OBJECT[top : top + grid.shape[0], left : left + grid.shape[1]]
    np.testing.assert_allclose(truth_on_grid(OBJECT, grid, SIZE), expected, atol=1e-4)


def test_outside_the_object_is_vacuum() -> None:
    dataset = simulate_dataset(OBJECT, PROBE, from_positions([[0.0, 0.0]]), FAR, 1e4)
    truth = truth_on_grid(OBJECT, dataset.object_grid(margin=200), SIZE)
    np.testing.assert_array_equal(truth[:20, :20], 1)


def test_position_zero_is_the_middle_of_the_object() -> None:
    corners = object_corners([[0.0, 0.0], [2e-8, -1e-8]], (120, 131), SIZE, 1e-8)
    np.testing.assert_allclose(corners, [[44, 49], [46, 48]])
    hole = np.zeros((121, 121), np.complex64)
    hole[60, 60] = 1  # light passes the middle only: all frames but the one at (0, 0) are darker
    pixel = FAR.pixel_size_m(SIZE)
    pattern = from_positions(np.array([[0, 0], [9, 0], [0, -9]]) * pixel)
    total = np.asarray(simulate_dataset(hole, PROBE[:1], pattern, FAR, 1e7).frames).sum((1, 2))
    assert total[0] > 100 * max(total[1], total[2], 1)


@pytest.mark.parametrize("geometry", [FAR, NEAR], ids=["far", "near"])
def test_photons_are_those_asked_for(geometry: Geometry) -> None:
    dataset = simulate_dataset(np.ones_like(OBJECT), 7 * PROBE, scan(geometry), geometry, 20_000.0)
    assert np.asarray(dataset.frames).sum((1, 2)).mean() == pytest.approx(20_000, rel=0.01)
    assert dataset.probe is not None
    assert (np.abs(dataset.probe) ** 2).sum() == pytest.approx(20_000, rel=1e-4)
    assert dataset.mask is None


@pytest.mark.parametrize("orientation", orientations())
def test_a_mounted_detector_delivers_turned_frames_and_mask(orientation: Orientation) -> None:
    detector = DetectorModel(modules=(1, 2), gap_px=2, saturation=60_000)
    turned = simulate_dataset(OBJECT, PROBE, scan(FAR), FAR, 1e6, detector=detector, orientation=orientation)
    plain = simulate_dataset(OBJECT, PROBE, scan(FAR), FAR, 1e6)
    assert turned.mask is not None and turned.mask[:, 16].all() and not turned.mask[16, :10].any()
    good = ~orientation.apply(turned.mask)
    mounted_back = orientation.apply(np.asarray(turned.frames)).astype(float)[:, good]
    expected = np.asarray(plain.frames).astype(float)[:, good]
    assert np.abs(np.sqrt(mounted_back) - np.sqrt(expected)).mean() < 1.0
    assert np.asarray(turned.frames)[:, turned.mask].max() == 0


def test_position_errors_move_the_probe_but_not_the_record() -> None:
    pixel = FAR.pixel_size_m(SIZE)
    errors = PositionErrors(jitter_m=pixel, drift_m_per_frame=(0.05 * pixel, 0.0), seed=3)
    wrong = simulate_dataset(OBJECT, PROBE, scan(FAR), FAR, 1e9, errors=errors)
    np.testing.assert_array_equal(wrong.positions, scan(FAR).positions)
    moved = from_positions(errors.true_positions(scan(FAR).positions))
    np.testing.assert_array_equal(wrong.frames, simulate_dataset(OBJECT, PROBE, moved, FAR, 1e9).frames)


def test_it_is_reproducible() -> None:
    first, again, other = (simulate_dataset(OBJECT, PROBE, scan(FAR), FAR, 1e4, seed=s).frames for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_a_guess_takes_the_place_of_the_true_probe() -> None:
    guess = disc_probe(SIZE, 1.0, diameter_m=20)[None]
    dataset = simulate_dataset(OBJECT, PROBE[0], scan(FAR), FAR, 1e4, probe_guess=guess, name="guessed")
    assert dataset.name == "guessed" and dataset.probe is not None
    np.testing.assert_allclose(dataset.probe, 100 * guess, rtol=1e-5)


def test_faults_are_told() -> None:
    with pytest.raises(DatasetError, match="photons_per_frame is 0"):
        simulate_dataset(OBJECT, PROBE, scan(FAR), FAR, 0)
    with pytest.raises(DatasetError, match=r"leave the object.*make the object larger or the scan smaller"):
        simulate_dataset(OBJECT[:60], PROBE, scan(FAR), FAR, 1e4)
    with pytest.raises(DatasetError, match="sums to nan"):
        simulate_dataset(OBJECT, np.nan * PROBE, scan(FAR), FAR, 1e4)
    with pytest.raises(DatasetError, match=r"the probe has shape \(4,\)"):
        simulate_dataset(OBJECT, np.ones(4, np.complex64), scan(FAR), FAR, 1e4)
    with pytest.raises(DatasetError, match="guess"):
        simulate_dataset(OBJECT, PROBE, scan(FAR), FAR, 1e4, probe_guess=PROBE[:, :16])
