from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.optics import (
    cells,
    integrated_circuit,
    power_law_field,
    random_foam,
    random_specimen,
    siemens_star,
    transmission,
)

SPECIMENS = [siemens_star, random_foam, cells, integrated_circuit]


@pytest.mark.parametrize("make", SPECIMENS)
def test_each_is_a_passive_object_with_the_contrast_asked_for(make: Callable[..., np.ndarray]) -> None:
    obj = make((160, 200), phase_rad=0.9, absorption=0.2, seed=1)
    assert obj.shape == (160, 200) and obj.dtype == np.complex64
    amplitude, phase = np.abs(obj), -np.angle(obj)
    assert amplitude.max() <= 1 + 1e-6 and amplitude.min() >= 0.8 - 1e-5
    assert phase.min() >= -1e-6 and phase.max() == pytest.approx(0.9, rel=0.02)
    np.testing.assert_allclose(np.log(amplitude), np.log(0.8) * phase / 0.9, atol=1e-5)  # one substance
    assert phase.std() > 0.05


@pytest.mark.parametrize("make", SPECIMENS)
def test_each_is_reproducible_and_its_seed_matters(make: Callable[..., np.ndarray]) -> None:
    np.testing.assert_array_equal(make((96, 96), seed=3), make((96, 96), seed=3))
    assert (make((96, 96), seed=3) != make((96, 96), seed=4)).any()


@pytest.mark.parametrize("make", SPECIMENS)
@pytest.mark.parametrize("shape", [(16, 16), (17, 90), (300, 40)])
def test_small_and_long_fields_work(make: Callable[..., np.ndarray], shape: tuple[int, int]) -> None:
    assert np.isfinite(make(shape)).all()


@pytest.mark.parametrize("make", SPECIMENS)
def test_edges_are_smooth(make: Callable[..., np.ndarray]) -> None:
    """Borders are drawn by the share of a pixel covered: there are levels between material and none."""
    phase = -np.angle(make((128, 128), phase_rad=1.0, seed=2))
    assert len(np.unique(np.round(phase, 3))) > 50


def test_the_star_has_its_spokes_rings_and_open_middle() -> None:
    obj = siemens_star((512, 512), spokes=24, rings=3, gap=0.03, roughness_px=0, phase_rad=1.0)
    material = -np.angle(obj)
    angles = np.linspace(0, 2 * np.pi, 4000, endpoint=False)

    def ring(radius: float) -> np.ndarray:
        y, x = 256 + radius * np.sin(angles), 256 + radius * np.cos(angles)
        return material[np.rint(y).astype(int), np.rint(x).astype(int)] > 0.5

    assert np.count_nonzero(ring(220)[1:] & ~ring(220)[:-1]) == 24
    assert ring(220).mean() == pytest.approx(0.5, abs=0.02)
    radii = np.geomspace(0.06, 0.46, 4) * 512
    for gap in radii[1:-1]:
        assert not ring(gap + 8).any()
    assert not ring(radii[0] - 3).any() and not ring(radii[-1] + 3).any()


def test_wires_run_along_the_axes() -> None:
    material = -np.angle(integrated_circuit((256, 256), seed=3))
    along = np.abs(np.fft.fft2(material - material.mean())) ** 2
    f = np.abs(np.fft.fftfreq(256)) * 256
    on_axes = (f[:, None] < 3) | (f[None] < 3)
    assert along[on_axes].sum() > 0.5 * along.sum()


def test_a_field_has_the_spectrum_asked_for() -> None:
    field = power_law_field((256, 256), np.random.default_rng(0), 1.5, 64.0)
    assert field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=1e-4) and field.std() == pytest.approx(1, rel=1e-3)
    power = np.abs(np.fft.fft2(field)) ** 2
    q = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    low, high = (power[(q > a) & (q < 1.2 * a)].mean() for a in (0.08, 0.32))
    assert np.log(low / high) / np.log(4) == pytest.approx(3.0, abs=0.25)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(16, 16), (96, 96), (40, 130)]))
@settings(deadline=None, max_examples=60)
def test_random_specimens_are_always_usable(seed: int, shape: tuple[int, int]) -> None:
    obj = random_specimen(shape, np.random.default_rng(seed))
    assert obj.shape == shape and obj.dtype == np.complex64
    assert np.isfinite(obj).all()
    assert np.abs(obj).max() <= 1 + 1e-6 and np.abs(obj).min() >= 0.65 - 1e-5
    phase = -np.angle(obj)
    assert phase.min() >= -1e-6 and phase.max() <= 1.6 + 1e-5
    np.testing.assert_array_equal(obj, random_specimen(shape, np.random.default_rng(seed)))


def test_random_specimens_are_of_great_variety() -> None:
    rng = np.random.default_rng(1)
    phases = [-np.angle(random_specimen((96, 96), rng)) for _ in range(200)]
    contrast = np.array([p.std() for p in phases])
    assert (contrast > 0.01).mean() > 0.97
    roughness = np.array([np.abs(np.diff(p)).mean() / (p.std() + 1e-9) for p in phases])
    assert np.quantile(roughness, 0.95) > 4 * np.quantile(roughness, 0.05)
    maps = np.stack([(p - p.mean()).ravel() / (np.linalg.norm(p - p.mean()) + 1e-9) for p in phases])
    likeness = np.abs(maps @ maps.T)[np.triu_indices(200, 1)]
    assert np.quantile(likeness, 0.99) < 0.5


def test_ranges_of_contrast_are_kept() -> None:
    make = partial(random_specimen, (64, 64), phase_rad=(3.0, 3.1), absorption=(0.0, 0.0))
    phases = [make(np.random.default_rng(k)) for k in range(10)]
    assert all(np.abs(np.abs(p) - 1).max() < 1e-5 for p in phases)


def test_faults_are_told() -> None:
    with pytest.raises(DatasetError, match=r"random_foam \(2 faults\): bubble_px is 0.*shape is \(8, 64\)"):
        random_foam((8, 64), bubble_px=0)
    with pytest.raises(DatasetError, match=r"inner_radius 0.5 must be below outer_radius 0.46"):
        siemens_star((64, 64), inner_radius=0.5)
    with pytest.raises(DatasetError, match="absorption is 1"):
        transmission(np.zeros((4, 4)), 1.0, 1)
