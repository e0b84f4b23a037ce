"""What a result says of the frames, against the forward model that made them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.optics import FarField, NearField, diffraction
from ptycho_bluesky.reconstruction.judgement import compare_patterns
from ptycho_bluesky.reconstruction.judgement._prediction import detector_waves, radial_sums


def corners(rec) -> np.ndarray:
    return (rec.positions - np.asarray(rec.origin)) / rec.pixel_size_m


def test_waves_are_those_of_the_forward_model(judged):
    rec = judged.result
    waves = detector_waves(rec, judged.dataset, rec.positions[:5])
    expected = diffraction(rec.probe, rec.object[0], corners(rec)[:5], FarField(rec.probe.shape[-1]))
    counts = np.fft.fftshift((np.abs(waves) ** 2).sum(axis=1), axes=(-2, -1))
    np.testing.assert_allclose(counts, expected, atol=1e-4 * expected.max())


def test_an_empty_second_slice_changes_little_and_two_do_what_one_did(judged):
    """A probe that is moved back by the slices' distance meets the second slice as it met the thin object."""
    rec, distance = judged.result, 2e-6
    between = NearField(rec.probe.shape[-1], rec.pixel_size_m, judged.dataset.geometry.wavelength_m, distance)
    thick = replace(
        rec, object=np.concatenate([np.ones_like(rec.object), rec.object]), probe=between.backward(rec.probe),
        parameters={"slice_distance_m": distance},
    )  # fmt: skip
    thin, found = (detector_waves(r, judged.dataset, rec.positions[:3]) for r in (rec, thick))
    np.testing.assert_allclose(found, thin, atol=1e-4 * np.abs(thin).max())
    with pytest.raises(ReconstructionError, match="2 slices; to model its frames"):
        detector_waves(replace(thick, parameters={}), judged.dataset, rec.positions[:3])


def test_variation_of_the_probe_is_part_of_it(judged):
    rec = replace(judged.result, opr_modes=0.5 * judged.result.probe)
    plain, more = (detector_waves(rec, judged.dataset, rec.positions[:1], w) for w in (None, np.ones((1, 1))))
    np.testing.assert_allclose(more, 1.5 * plain, rtol=1e-4, atol=1e-3)


def test_photon_noise_alone_is_what_the_truth_leaves(measure: Callable):
    """At few and at many photons, the R-factor of the true model is the one foretold."""
    for photons in (3e3, 3e5):
        one = measure(photons)
        exact = replace(one.truth, probe=one.dataset.probe)
        found = compare_patterns(exact, one.dataset)
        assert found.r_factor == pytest.approx(found.r_noise, rel=0.02)
        assert found.frames == min(128, len(one.dataset))


def test_rings_of_measured_and_modelled_agree(judged):
    found = compare_patterns(judged.result, judged.dataset, most=40)
    assert found.frames == 40
    bright = found.measured_rings > 1
    np.testing.assert_allclose(found.modelled_rings[bright], found.measured_rings[bright], rtol=0.15)
    assert found.frequency[-1] == pytest.approx(0.5 / judged.result.pixel_size_m)


def test_bad_pixels_and_bad_frames_do_not_count(judged):
    frames = judged.dataset.frames.astype(np.float32)
    mask = np.zeros(frames.shape[1:], bool)
    mask[30:34, 20:40] = True
    frames[:, mask] = 1e6
    frames[0, 0, 0] = np.nan
    found = compare_patterns(judged.result, replace(judged.dataset, frames=frames, mask=mask))
    assert found.r_factor == pytest.approx(judged.result.r_factor, rel=0.2)
    assert found.frames == len(frames) - 1
    assert np.isnan(found.measured[31, 30])


def test_background_is_part_of_the_model(judged):
    scattered = replace(judged.dataset, frames=judged.dataset.frames + 20)
    without = compare_patterns(judged.result, scattered).r_factor
    flat = replace(judged.result, background=np.full(judged.dataset.frame_shape, 20, np.float32))
    assert compare_patterns(flat, scattered).r_factor < without / 3


def test_ring_sums():
    size = 16
    image = np.ones((size, size))
    total = radial_sums(image, np.ones((size, size), bool))
    assert len(total) == size // 2
    assert total[0] == 8  # the neighbours of the middle, at 1 and at sqrt 2


def test_other_data_are_refused(judged):
    with pytest.raises(ReconstructionError, match="give the data that the result was made from"):
        compare_patterns(judged.result, judged.dataset.subset(slice(20)))
    with pytest.raises(ReconstructionError, match="positions leave the object"):
        detector_waves(judged.result, judged.dataset, judged.result.positions + 1e-5)
