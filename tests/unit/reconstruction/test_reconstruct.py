"""reconstruct(): options, stopping, provenance and what is settled by convention."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.optics import diffraction, propagator_for
from ptycho_bluesky.reconstruction import FastOptions, reconstruct
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction._result import coverage, settled

QUICK = {"modes": 1, "epochs": 3}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"engine": "magic"}, "engine 'magic' is not known; allowed are 'auto', 'fast'"),
        ({"options": {"epoch": 3}}, "known: epochs, modes.*epoch: Extra inputs"),
        ({"options": {"epochs": 0, "modes": 99}}, r"2 faults\): epochs: .*given 0.*modes: .*given 99"),
        ({"max_seconds": 0}, "max_seconds is 0; it must be above 0"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"device": "cuda", "options": {"kernels": "numba"}}, "numba kernels work on the CPU alone"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(star, arguments, text):
    with pytest.raises(ReconstructionError, match=text):
        reconstruct(star.dataset, **arguments)


def test_stopping_early_keeps_the_result_and_says_why(star):
    seen = []
    result = reconstruct(
        star.dataset, options={"modes": 1, "epochs": 50}, on_state=seen.append, should_stop=lambda: len(seen) == 2
    )
    assert len(result.errors) == 2 and result.provenance["stopped_early"] == "asked to stop"
    limited = reconstruct(star.dataset, options={"modes": 1, "epochs": 50}, max_seconds=1e-6)
    assert len(limited.errors) == 1 and "limit of 1e-06 s" in limited.provenance["stopped_early"]
    assert np.isfinite(limited.object).all() and limited.r_factor < 1


def test_provenance_and_parameters_are_json_and_complete(star):
    result = reconstruct(star.dataset, options=FastOptions(**QUICK))
    json.dumps([result.provenance, result.parameters])
    assert result.engine == "auto" and result.parameters["epochs"] == 3
    assert {"software", "host", "device", "ranks", "kernels", "seconds", "stopped_early"} <= set(result.provenance)
    assert result.provenance["stopped_early"] is None
    assert result.provenance["software"]["numpy"] == np.__version__


def test_the_r_factor_is_that_of_the_definition(star):
    result = reconstruct(star.dataset, "fast", {**QUICK, "subpixel": 1})
    dataset = star.dataset
    corners = np.rint(dataset.object_grid().corners)
    model = np.sqrt(diffraction(result.probe, result.object[0], corners, propagator_for(None, "far-field", 64)))
    measured = np.sqrt(np.asarray(dataset.frames[:], np.float64))
    scale = (model * measured).sum() / (model**2).sum()
    assert result.r_factor == pytest.approx(np.abs(scale * model - measured).sum() / measured.sum(), rel=1e-3)


def test_units_shapes_and_scale_follow_the_contract(star):
    result = reconstruct(star.dataset, options=QUICK)
    grid = star.dataset.object_grid()
    assert result.object.shape == (1, *grid.shape) and result.object.dtype == np.complex64
    assert result.coverage.shape == grid.shape and result.coverage.max() == 1
    assert result.origin == grid.origin and result.pixel_size_m == star.dataset.pixel_size_m
    counts = np.asarray(star.dataset.frames[:], np.float64).sum(axis=(1, 2)).mean()
    assert (np.abs(result.probe) ** 2).sum() == pytest.approx(counts, rel=1e-4)
    assert 0 < result.phase_contrast_rad < 2 * np.pi


def test_settling_takes_the_tilt_out_and_changes_no_frame(star):
    problem = prepare(star.dataset, 1)
    y, x = np.indices(problem.grid.shape)
    tilted = replace(problem.start, object=np.exp(1j * (0.05 * y - 0.03 * x)).astype(np.complex64)[None])
    flat = settled(problem, tilted)
    inside = coverage(problem, flat) > 0.1
    assert np.angle(flat.object[0][inside] / flat.object[0][inside].mean()).std() < 1e-2
    corners, far = np.rint(flat.corners), propagator_for(None, "far-field", 64)
    before, after = (diffraction(m.probe[0], m.object[0], corners, far) for m in (tilted, flat))
    scale = before.sum() / after.sum()
    np.testing.assert_allclose(after * scale, before, atol=1e-3 * before.max())


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32, np.float64])
def test_frames_of_any_type_give_the_same_result(star, dtype):
    frames = np.asarray(star.dataset.frames[:]).astype(dtype)
    reference = reconstruct(star.dataset, options={**QUICK, "epochs": 1})
    result = reconstruct(replace(star.dataset, frames=frames), options={**QUICK, "epochs": 1})
    np.testing.assert_allclose(result.object, reference.object, atol=1e-5)


def test_auto_takes_one_mode_for_few_frames_unless_told(star):
    few = star.dataset.subset(slice(0, 30))
    assert reconstruct(few, options={"epochs": 1}).parameters["modes"] == 1
    assert reconstruct(few, options={"epochs": 1, "modes": 2}).parameters["modes"] == 2
    assert reconstruct(few, engine="fast", options={"epochs": 1}).parameters["modes"] == 3


@pytest.mark.data
def test_the_measured_star_reaches_its_r_factor_with_one_mode(data_folder):
    from ptycho_bluesky.formats import load_dataset

    dataset = load_dataset(data_folder / "siemens_star_small.npz.bz2")
    result = reconstruct(dataset, "fast", {"modes": 1})
    assert result.r_factor <= 0.150 and 1.0 < result.phase_contrast_rad < 1.6


@pytest.mark.data
def test_the_measured_star_is_explained_best_by_the_default(data_folder):
    from ptycho_bluesky.formats import load_dataset

    result = reconstruct(load_dataset(data_folder / "siemens_star_small.npz.bz2"))
    assert result.engine == "auto" and len(result.probe) == 3
    assert result.r_factor <= 0.1255 and 1.15 < result.phase_contrast_rad < 1.6


@pytest.mark.data
def test_the_measured_near_field_star_is_explained(data_folder):
    from ptycho_bluesky.formats import load_dataset

    dataset = load_dataset(data_folder / "petra3_p25_near_field.cxi", focus_to_sample_m=3.65e-3)
    result = reconstruct(dataset, options={"modes": 1})
    assert result.r_factor < 0.08 and result.phase_contrast_rad > 0.3
