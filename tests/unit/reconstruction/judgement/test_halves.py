"""Two halves of a measurement: even, disjoint, and of a resolution that follows the dose."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from ptycho_bluesky.errors import DatasetError, ReconstructionError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction.judgement import as_reconstructed, half_data_frc, half_data_sets, made_with


def test_every_frame_is_in_one_half(judged):
    first, second = half_data_sets(judged.dataset)
    together = np.concatenate([first.positions, second.positions])
    assert abs(len(first) - len(second)) <= 1
    assert sorted(map(tuple, together)) == sorted(map(tuple, judged.dataset.positions))
    places = {tuple(p): f.sum() for p, f in zip(judged.dataset.positions, judged.dataset.frames, strict=True)}
    assert all(places[tuple(p)] == f.sum() for p, f in zip(second.positions, second.frames, strict=True))


def test_both_halves_cover_the_field_evenly(judged):
    step = cKDTree(judged.dataset.positions).query(judged.dataset.positions, 2)[0][:, 1].mean()
    for half in half_data_sets(judged.dataset, seed=5):
        to_nearest = cKDTree(half.positions).query(judged.dataset.positions)[0]
        assert to_nearest.max() < 2.5 * step  # no hole


def test_another_seed_divides_otherwise(judged):
    first, again, other = (half_data_sets(judged.dataset, seed)[0].positions for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_few_frames_are_refused(judged):
    with pytest.raises(DatasetError, match="has 31 frames; half data sets need at least 32"):
        half_data_sets(judged.dataset.subset(slice(31)))


def test_resolution_follows_the_dose(measure: Callable):
    found = {}
    for photons in (3e3, 3e5):
        engine, options = made_with(measure(photons).result)
        found[photons] = half_data_frc(measure(photons).dataset, engine, options)
    pixel = measure(3e5).dataset.pixel_size_m
    assert found[3e5].resolution < found[3e3].resolution < 12 * pixel
    assert found[3e5].resolution == found[3e5].correlation.resolution >= pixel
    assert len(found[3e5].first.positions) + len(found[3e5].second.positions) == len(measure(3e5).dataset)


def test_a_result_of_a_foreign_engine_is_made_again_with_auto(judged):
    assert made_with(judged.result) == ("fast", judged.result.parameters)
    assert made_with(replace(judged.result, engine="DM of another program")) == ("auto", {})


def test_near_field_data_get_the_distance_that_was_found():
    given = Geometry(
        energy_kev=12.0, distance_m=1.1, detector_pixel_m=55e-6, focus_to_sample_m=4e-3, modality="near-field"
    )
    found = given.model_copy(update={"focus_to_sample_m": 3.6e-3})
    dataset = PtychoDataset(
        np.ones((1, 16, 16)), np.zeros((1, 2)), given, "near-field", pixel_size_m=given.pixel_size_m(16)
    )
    result = Reconstruction(
        object=np.ones((1, 48, 48), np.complex64), probe=np.ones((1, 16, 16), np.complex64), positions=np.zeros((1, 2)),
        coverage=np.ones((48, 48), np.float32), origin=(0.0, 0.0), pixel_size_m=found.pixel_size_m(16),
        errors=np.ones(1), r_factor=0.1, phase_contrast_rad=1.0, engine="fast",
        provenance={"geometry": found.model_dump(mode="json")},
    )  # fmt: skip
    used = as_reconstructed(dataset, result)
    assert used.geometry == found and used.pixel_size_m == result.pixel_size_m
    assert as_reconstructed(dataset, replace(result, provenance={})) is dataset
    with pytest.raises(ReconstructionError, match="geometry cannot be understood"):
        as_reconstructed(dataset, replace(result, provenance={"geometry": {"energy_kev": -1}}))
