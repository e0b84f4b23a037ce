"""Thick objects: thin slices with free space between them."""

import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import Geometry, fermat
from ptycho_bluesky.optics import (
    FarField,
    NearField,
    Propagator,
    coherent_modes,
    diffraction,
    disc_probe,
    object_patches,
    propagator_for,
    random_specimen,
    simulate_dataset,
)

SIZE = 32
PROBE = coherent_modes(disc_probe(SIZE, 1.0, diameter_m=12, edge_m=6), 2, 0.6, plane="sample")
STACK = np.stack([random_specimen((70, 80), np.random.default_rng(seed)) for seed in (1, 2, 3)])
BETWEEN = NearField(SIZE, 1e-7, 1e-10, 2e-4)
PROPAGATORS = [FarField(SIZE), NearField(SIZE, 1e-7, 1e-10, 1e-3)]


def test_it_is_the_plain_formula() -> None:
    patches = object_patches(STACK[0], np.array([[7, 20]]), (SIZE, SIZE))[0], STACK[1, 7 : 7 + SIZE, 20 : 20 + SIZE]
    wave = np.fft.ifft2(np.fft.fft2(PROBE * patches[0]) * BETWEEN.transfer) * patches[1]
    expected = np.fft.fftshift((np.abs(np.fft.fft2(wave, norm="ortho")) ** 2).sum(0))
    got = diffraction(PROBE, STACK[:2], [[7, 20]], FarField(SIZE), BETWEEN)[0]
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("propagator", PROPAGATORS, ids=["far", "near"])
def test_slices_that_touch_are_one_slice(propagator: Propagator) -> None:
    touching = NearField(SIZE, 1e-7, 1e-10, 0.0)
    corners = np.random.default_rng(0).uniform(0, 38, (5, 2))
    thin = diffraction(PROBE, np.prod(STACK, axis=0), corners, propagator)
    np.testing.assert_allclose(diffraction(PROBE, STACK, corners, propagator, touching), thin, atol=1e-6)


@pytest.mark.parametrize("propagator", PROPAGATORS, ids=["far", "near"])
def test_an_empty_last_slice_changes_the_far_field_in_nothing(propagator: Propagator) -> None:
    corners = [[3.4, 8.0], [20.0, 11.7]]
    thick = np.stack([STACK[0], np.ones_like(STACK[0])])
    thin, seen = (
        diffraction(PROBE, STACK[0], corners, propagator),
        diffraction(PROBE, thick, corners, propagator, BETWEEN),
    )
    if propagator.reciprocal:  # free space only turns phases there
        np.testing.assert_allclose(seen, thin, atol=1e-6)
    else:
        assert np.abs(seen - thin).max() > 0.01 * thin.max()


def test_a_thick_object_is_measured() -> None:
    geometry = Geometry(energy_kev=10, distance_m=2, detector_pixel_m=75e-6)
    pixel = geometry.pixel_size_m(SIZE)
    pattern = fermat(20 * pixel, 20 * pixel, 8 * pixel)
    thick = simulate_dataset(STACK, PROBE, pattern, geometry, 1e9, slice_distance_m=3e-4, seed=1)
    assert thick.probe is not None
    between = NearField(SIZE, pixel, geometry.wavelength_m, 3e-4)
    corners = pattern.positions / pixel + np.array([35, 40]) - SIZE // 2
    model = diffraction(thick.probe, STACK, corners, propagator_for(geometry, "far-field", SIZE), between)
    measured, modelled = np.sqrt(np.asarray(thick.frames)), np.sqrt(model)
    assert np.abs(measured - modelled).sum() / measured.sum() < 0.005
    thin = simulate_dataset(np.prod(STACK, axis=0), PROBE, pattern, geometry, 1e9, seed=1)
    assert np.abs(np.sqrt(np.asarray(thin.frames)) - modelled).sum() / measured.sum() > 0.02


@pytest.mark.parametrize("between", [None, NearField(16, 1e-7, 1e-10, 1e-4)])
def test_slices_without_a_way_between_them_are_refused(between: Propagator | None) -> None:
    with pytest.raises(DatasetError, match="3 slices need a propagator between them, of frame size 32"):
        diffraction(PROBE, STACK, [[0, 0]], FarField(SIZE), between)
