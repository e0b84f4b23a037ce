"""Thick objects: two slices in one scan, told apart; the gradient through them held to finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat, from_positions, phase_correlation
from ptycho_bluesky.optics import (
    NearField,
    coherent_modes,
    diffraction,
    disc_probe,
    propagator_for,
    random_foam,
    random_specimen,
    siemens_star,
    simulate_dataset,
    truth_on_grid,
    zone_plate_probe,
)
from ptycho_bluesky.reconstruction import reconstruct
from ptycho_bluesky.reconstruction._model import Variation
from ptycho_bluesky.reconstruction._problem import Problem, prepare
from ptycho_bluesky.reconstruction._slices import slice_transfer
from ptycho_bluesky.reconstruction.engines import AutodiffEngine, AutodiffOptions
from ptycho_bluesky.reconstruction.engines._descent import Loss
from ptycho_bluesky.reconstruction.engines._differentiable import DifferentiableModel

SIZE = 64
FAR = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
NEAR = Geometry(energy_kev=12, distance_m=1, detector_pixel_m=50e-6, modality="near-field", focus_to_sample_m=2e-3)
PIXEL = FAR.pixel_size_m(SIZE)
DISTANCE = 4 * 5.2 * PIXEL**2 / FAR.wavelength_m
"""Four depths of focus."""

STACK = np.stack([siemens_star((180, 180), spokes=12, rings=2), random_foam((180, 180), bubble_px=24, seed=3)])


@pytest.fixture(scope="module")
def thick() -> PtychoDataset:
    probe = zone_plate_probe(
        SIZE, PIXEL, FAR.wavelength_m, diameter_m=180e-6, outermost_zone_m=50e-9, central_stop_m=60e-6, defocus_m=150e-6
    )
    pattern = fermat(70 * PIXEL, 70 * PIXEL, 6 * PIXEL)
    return simulate_dataset(STACK, probe, pattern, FAR, 1e6, slice_distance_m=DISTANCE)


def correlations(dataset: PtychoDataset, engine: str, slices: int) -> tuple[np.ndarray, float]:
    """Return (slices, 2), the phase of each slice found against each true one, and the R-factor."""
    options: dict[str, object] = {"modes": 1, "epochs": 25, "threads": 1, "slices": slices}
    options["slice_distance_m"] = DISTANCE if slices > 1 else None
    options |= {"learning_rate": {"object": 0.03}} if engine == "autodiff" else {"kernels": "torch"}
    result = reconstruct(dataset, engine, options)
    inside = result.field_of_view

    def flat(image: np.ndarray) -> np.ndarray:
        return np.where(inside, np.angle(image * np.exp(-1j * np.angle(image[inside].mean()))), np.nan)

    truths = [truth_on_grid(image, dataset.object_grid(), SIZE) for image in STACK]
    found = [[phase_correlation(flat(image), flat(truth)) for truth in truths] for image in result.object]
    return np.array(found), result.r_factor


@pytest.mark.parametrize("engine", ["autodiff", "fast"])
def test_two_slices_are_told_apart_where_one_would_not_do(thick, engine):
    one, r_one = correlations(thick, engine, 1)
    two, r_two = correlations(thick, engine, 2)
    assert (two.diagonal() > 0.9).all() and (two.diagonal() > one[0] + 0.05).all(), (one, two)
    assert two[0, 1] < 0.3 and two[1, 0] < 0.3
    assert r_two < 0.7 * r_one, (r_one, r_two)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kernels": "numba"}, "numba kernels know thin objects alone"),
        ({"position_correction": True, "coarse_epochs": 0}, "corrects no positions through slices"),
    ],
)
def test_what_the_fast_engine_does_not_do_with_slices_is_told(thick, options, match):
    with pytest.raises(ReconstructionError, match=match):
        reconstruct(thick, "fast", {"modes": 1, "slices": 2, "slice_distance_m": DISTANCE, **options})


def test_slices_without_a_distance_or_a_geometry_are_refused(thick):
    with pytest.raises(ReconstructionError, match="2 slices need slice_distance_m"):
        next(AutodiffEngine().run(thick, AutodiffOptions(slices=2)))
    in_pixels = replace(thick, geometry=None, pixel_size_m=None, positions=thick.positions / PIXEL)
    with pytest.raises(ReconstructionError, match=r"2 slices need slice_distance_m .* and a geometry"):
        next(AutodiffEngine().run(in_pixels, AutodiffOptions(slices=2, slice_distance_m=DISTANCE)))


def test_a_thin_object_has_no_way_between_slices(thick):
    thin, slices = (prepare(thick, 1, slices=s, slice_distance_m=DISTANCE) for s in (1, 3))
    assert thin.start.object.shape[0] == 1 and slice_transfer(thin).size == 0
    assert slices.start.object.shape[0] == 3 and slice_transfer(slices).shape == (SIZE, SIZE)


def small(geometry: Geometry) -> tuple[Problem, DifferentiableModel]:
    """Return two slices seen in three frames of 16 x 16, in double precision, with all there is to learn."""
    size, pixel = 16, geometry.pixel_size_m(16)
    stack = np.stack([random_specimen((40, 40), np.random.default_rng(seed)) for seed in (1, 2)])
    probe = coherent_modes(disc_probe(size, 1.0, diameter_m=9, edge_m=3), 2, 0.7, plane="sample")
    # No fraction near half a pixel, where a corner changes its whole pixel.
    pattern = from_positions(np.array([[0.2, 0.6], [2.3, -1.1], [-3.0, 3.2]]) * pixel)
    distance = 40 * pixel**2 / geometry.wavelength_m
    dataset = simulate_dataset(stack, probe, pattern, geometry, 1e5, slice_distance_m=distance)
    problem = prepare(dataset, 2, slices=2, slice_distance_m=distance)
    rng = np.random.default_rng(0)
    shape = problem.start.object.shape
    thick = np.exp(0.3j * rng.normal(size=shape) - 0.1).astype(np.complex64)
    variation = Variation(problem.start.probe[0, :1] * 1j, rng.normal(size=(3, 1)).astype(np.float32) * 0.1)
    background = np.full((size, size), 3, np.float32)
    model = replace(problem.start, object=thick, variation=variation, background=background)
    net = DifferentiableModel(
        problem, model, torch.device("cpu"), positions=True, background=True, opr=1, dtype=torch.float64
    )
    return problem, net


SMALL = {"far": small(FAR), "near": small(NEAR)}


@given(st.sampled_from(["far", "near"]), st.sampled_from(["amplitude", "poisson", "intensity"]), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_gradient_is_that_of_finite_differences(field: str, kind: str, seed: int) -> None:
    problem, net = SMALL[field]
    amplitude = torch.from_numpy(problem.amplitudes.of(np.arange(3))).double()
    amplitude[:, :2, 3:5] = -1  # bad pixels
    loss, generator = Loss(kind, net.peak, 100.0), torch.Generator().manual_seed(seed)
    parameters = list(net.parameters())
    way = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    net.zero_grad()
    loss(net(torch.arange(3)), amplitude).backward()
    slope = sum(float((p.grad * w).sum()) for p, w in zip(parameters, way, strict=True))

    def moved(step: float) -> float:
        with torch.no_grad():
            for p, w in zip(parameters, way, strict=True):
                p += step * w
            value = float(loss(net(torch.arange(3)), amplitude))
            for p, w in zip(parameters, way, strict=True):
                p -= step * w
        return value

    step = 1e-6
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("geometry", [FAR, NEAR], ids=["far", "near"])
def test_the_model_is_that_of_the_simulation(geometry: Geometry) -> None:
    problem, _ = small(geometry)
    obj = np.stack([random_specimen(problem.grid.shape, np.random.default_rng(seed)) for seed in (1, 2)])
    model = replace(problem.start, object=obj)
    with torch.no_grad():
        counts = DifferentiableModel(problem, model, torch.device("cpu"))(torch.arange(3)).numpy()
    assert problem.slice_distance_m is not None
    between = NearField(16, geometry.pixel_size_m(16), geometry.wavelength_m, problem.slice_distance_m)
    propagator = propagator_for(geometry, geometry.modality, 16)
    expected = diffraction(model.probe[0], obj, model.corners, propagator, between)
    expected = np.fft.ifftshift(expected, axes=(1, 2)) if propagator.reciprocal else expected
    np.testing.assert_allclose(counts, expected, rtol=1e-3, atol=1e-4 * expected.max())
