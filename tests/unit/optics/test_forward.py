import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.optics import (
    FarField,
    NearField,
    Propagator,
    coherent_modes,
    diffraction,
    disc_probe,
    fourier_shift,
    object_patches,
    random_specimen,
)
from ptycho_bluesky.optics import _forward as forward_file

SIZE = 32
PROBE = coherent_modes(disc_probe(SIZE, 1.0, diameter_m=12, edge_m=6), 3, 0.6, plane="sample")
OBJECT = random_specimen((80, 90), np.random.default_rng(4))
PROPAGATORS = [FarField(SIZE), NearField(SIZE, 1e-7, 1e-10, 1e-3)]
fractions = st.floats(-0.5, 0.5)


@pytest.fixture(params=PROPAGATORS, ids=["far", "near"])
def propagator(request: pytest.FixtureRequest) -> Propagator:
    return request.param


@given(st.lists(st.tuples(st.floats(0, 48), st.floats(0, 58)), min_size=1, max_size=5), st.sampled_from(PROPAGATORS))
@settings(deadline=None, max_examples=30)
def test_no_photon_is_lost_or_made_in_vacuum(corners: list[tuple[float, float]], propagator: Propagator) -> None:
    frames = diffraction(1000**0.5 * PROBE, np.ones((80, 90), np.complex64), corners, propagator)
    assert frames.dtype == np.float32 and frames.shape == (len(corners), SIZE, SIZE)
    np.testing.assert_allclose(frames.sum((1, 2)), 1000, rtol=1e-4)


def test_it_is_the_plain_formula_at_whole_pixels() -> None:
    waves = PROBE * OBJECT[7 : 7 + SIZE, 20 : 20 + SIZE]
    expected = np.fft.fftshift((np.abs(np.fft.fft2(waves, norm="ortho")) ** 2).sum(0))
    got = diffraction(PROBE, OBJECT, [[7, 20]], FarField(SIZE))[0]
    np.testing.assert_allclose(got, expected, atol=1e-8, rtol=1e-4)
    empty = diffraction(PROBE[0], np.ones_like(OBJECT), [[7, 20]], FarField(SIZE))[0]
    assert np.unravel_index(empty.argmax(), empty.shape) == (SIZE // 2, SIZE // 2)


@given(fractions, fractions)
@settings(deadline=None, max_examples=30)
def test_a_fraction_of_a_corner_moves_the_probe(dy: float, dx: float) -> None:
    got = diffraction(PROBE, OBJECT, [[10 + dy, 12 + dx]], FarField(SIZE))
    whole = np.rint([10 + dy, 12 + dx])
    moved = fourier_shift(PROBE, np.array([10 + dy, 12 + dx]) - whole)
    np.testing.assert_allclose(got, diffraction(moved, OBJECT, [whole], FarField(SIZE)), atol=1e-6)


@given(fractions, fractions)
@settings(deadline=None, max_examples=30)
def test_moving_the_probe_is_moving_the_object_the_other_way(dy: float, dx: float) -> None:
    """Of a periodic, smooth object, where the Fourier shift is exact; in the near field the beam stays in place."""
    y, x = np.indices((3 * SIZE, 3 * SIZE)) * (2 * np.pi / SIZE)
    r = np.hypot(*(np.indices((SIZE, SIZE)) - SIZE / 2))
    smooth = (np.exp(-((r / 5) ** 2)) / 10).astype(np.complex64)

    def wave(dy: float, dx: float) -> np.ndarray:
        a, b = y + 2 * np.pi * dy / SIZE, x + 2 * np.pi * dx / SIZE
        return np.exp(0.5j * np.sin(a + 0.3) + 0.4j * np.cos(a - b)).astype(np.complex64)

    for propagator in PROPAGATORS:
        moved_probe = diffraction(smooth, wave(0, 0), [[SIZE + dy, SIZE + dx]], propagator)
        moved_object = diffraction(smooth, wave(dy, dx), [[SIZE, SIZE]], propagator)
        np.testing.assert_allclose(moved_probe, moved_object, atol=1e-6 * moved_object.max())


def test_modes_add_their_intensities(propagator: Propagator) -> None:
    corners = [[3.3, 4.1], [8.0, 20.6]]
    parts = sum(diffraction(mode, OBJECT, corners, propagator) for mode in PROBE)
    np.testing.assert_allclose(diffraction(PROBE, OBJECT, corners, propagator), parts, atol=1e-7)


def test_batches_do_not_show(propagator: Propagator, monkeypatch: pytest.MonkeyPatch) -> None:
    corners = np.random.default_rng(0).uniform(0, 48, (7, 2))
    at_once = diffraction(PROBE, OBJECT, corners, propagator)
    monkeypatch.setattr(forward_file, "WAVES_PER_BATCH", 2 * PROBE.size)
    np.testing.assert_allclose(diffraction(PROBE, OBJECT, corners, propagator), at_once, atol=1e-8)


def test_the_outermost_patches_are_allowed(propagator: Propagator) -> None:
    corners = [[0, 0], [48, 58], [47.6, 57.5], [0.4, 0.5]]
    assert np.isfinite(diffraction(PROBE, OBJECT, corners, propagator)).all()


@given(fractions, fractions)
@settings(deadline=None, max_examples=20)
def test_fourier_shift_goes_towards_larger_indices_and_back(dy: float, dx: float) -> None:
    there = fourier_shift(PROBE, (dy + 2, dx - 1))
    assert there.dtype == np.complex64
    np.testing.assert_allclose(fourier_shift(there, (-dy - 2, 1 - dx)), PROBE, atol=1e-6)
    np.testing.assert_allclose(fourier_shift(PROBE, (2, -1)), np.roll(PROBE, (2, -1), (-2, -1)), atol=1e-6)


def test_patches_are_cut_where_the_corners_say() -> None:
    patches = object_patches(OBJECT, np.array([[0, 5], [48, 58]]), (SIZE, SIZE))
    np.testing.assert_array_equal(patches[0], OBJECT[:SIZE, 5 : 5 + SIZE])
    np.testing.assert_array_equal(patches[1], OBJECT[48:, 58:])


@pytest.mark.parametrize(
    ("probe", "obj", "corners", "match"),
    [
        (PROBE[:, :16], OBJECT, [[0, 0]], r"the probe has shape \(3, 16, 32\)"),
        (PROBE, OBJECT[:20], [[0, 0]], r"the object has shape \(20, 90\)"),
        (PROBE, OBJECT, [0, 0], r"corners have shape \(2,\)"),
        (PROBE, OBJECT, [[0, 0], [49, 0], [-1, 3]], r"2 of 3 patches leave the object.*first is 1 at \(49.0, 0.0\)"),
        (PROBE, OBJECT, [[np.nan, 0]], "1 of 1 patches leave the object"),
    ],
)
def test_faults_are_told(probe: np.ndarray, obj: np.ndarray, corners: list[object], match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        diffraction(probe, obj, corners, FarField(SIZE))
