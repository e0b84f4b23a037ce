import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import Geometry
from ptycho_bluesky.optics import FarField, NearField, Propagator, propagator_for

WAVELENGTH_M = 1e-10


def waves(seed: int, size: int, count: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, size, size)) + 1j * rng.normal(size=(count, size, size))).astype(np.complex64)


def gaussian(size: int, pixel_m: float, waist_m: float, z_m: float) -> np.ndarray:
    """Return the paraxial Gaussian beam at `z_m` behind its waist (Saleh and Teich, eq. 3.1-7), without exp(ikz)."""
    x = (np.arange(size) - size // 2) * pixel_m
    rayleigh = np.pi * waist_m**2 / WAVELENGTH_M
    q = z_m - 1j * rayleigh
    return -1j * rayleigh / q * np.exp(1j * np.pi * (x[:, None] ** 2 + x[None] ** 2) / (WAVELENGTH_M * q))


@st.composite
def propagators(draw: st.DrawFn) -> Propagator:
    size = draw(st.sampled_from([8, 15, 32]))
    if draw(st.booleans()):
        return FarField(size)
    return NearField(size, draw(st.floats(1e-8, 1e-6)), draw(st.floats(1e-11, 1e-9)), draw(st.floats(-0.1, 0.1)))


@settings(deadline=None, max_examples=40)
@given(propagators(), st.integers(0, 2**32 - 1))
def test_unitary_and_adjoint(propagator: Propagator, seed: int) -> None:
    a, b = waves(seed, propagator.frame_size), waves(seed + 1, propagator.frame_size)
    there = propagator.forward(a)
    assert there.dtype == np.complex64
    assert np.vdot(there, there).real == pytest.approx(np.vdot(a, a).real, rel=1e-5)
    np.testing.assert_allclose(propagator.backward(there), a, atol=2e-5)
    assert complex(np.vdot(b, there)) == pytest.approx(
        complex(np.vdot(propagator.backward(b), a)), abs=1e-6 * float(np.vdot(a, a).real)
    )


def test_far_field_is_numpys_transform_with_the_zero_frequency_at_the_corner() -> None:
    wave = waves(0, 16)
    np.testing.assert_allclose(FarField(16).forward(wave), np.fft.fft2(wave, norm="ortho"), atol=1e-5)
    flat = np.abs(FarField(16).forward(np.ones((16, 16), np.complex64)))
    assert np.unravel_index(flat.argmax(), flat.shape) == (0, 0)


@pytest.mark.parametrize("z_m", [-3e-3, 1e-3, 5e-3])
def test_near_field_spreads_a_gaussian_beam_as_the_formula_says(z_m: float) -> None:
    size, pixel, waist = 256, 50e-9, 0.7e-6
    wave = NearField(size, pixel, WAVELENGTH_M, z_m).forward(gaussian(size, pixel, waist, 0.0).astype(np.complex64))
    np.testing.assert_allclose(wave, gaussian(size, pixel, waist, z_m), atol=2e-5)


@given(st.floats(-0.01, 0.01), st.floats(-0.01, 0.01))
@settings(deadline=None, max_examples=20)
def test_two_near_field_steps_are_one(first_m: float, second_m: float) -> None:
    wave = waves(3, 16, 1)
    steps = [NearField(16, 1e-7, WAVELENGTH_M, z) for z in (first_m, second_m, first_m + second_m)]
    np.testing.assert_allclose(steps[1].forward(steps[0].forward(wave)), steps[2].forward(wave), atol=2e-4)


def test_a_cone_beam_is_the_parallel_beam_of_the_effective_distance() -> None:
    geometry = Geometry(
        energy_kev=12.66, distance_m=1.12, detector_pixel_m=55e-6, modality="near-field", focus_to_sample_m=3.65e-3
    )
    propagator = propagator_for(geometry, "near-field", 100)
    assert isinstance(propagator, NearField)
    expected = NearField(100, 55e-6 / 307.849315, geometry.wavelength_m, 1.12 / 307.849315)
    np.testing.assert_allclose(propagator.transfer, expected.transfer, atol=1e-4)


def test_propagator_for_the_far_field_needs_no_geometry() -> None:
    assert propagator_for(None, "far-field", 64).frame_size == 64


def test_faults_are_told() -> None:
    far = Geometry(energy_kev=10, distance_m=1, detector_pixel_m=75e-6)
    with pytest.raises(DatasetError, match="near field needs a geometry"):
        propagator_for(None, "near-field", 64)
    with pytest.raises(DatasetError, match="'near-field' but the geometry says 'far-field'"):
        propagator_for(far, "near-field", 64)
    with pytest.raises(DatasetError, match="frame_size is 1"):
        FarField(1)
    with pytest.raises(DatasetError, match=r"3 faults.*pixel_size_m is 0.*wavelength_m is -1.*distance_m is nan"):
        NearField(64, 0, -1, float("nan"))
