"""The verdict in plain words: what is good is called so, and each fault asks to be looked at."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction.judgement import (
    HalfDataResult,
    Judgement,
    Uncertainty,
    fourier_ring_correlation,
    judge,
)
from ptycho_bluesky.reconstruction.judgement._verdict import length_text


def faults(judgement: Judgement) -> str:
    return " ".join(finding.text for finding in judgement.findings if not finding.good)


def halves(judged, resolution_px: float = 1.5) -> HalfDataResult:
    rec = judged.result
    correlation = fourier_ring_correlation(rec, rec)
    return HalfDataResult(rec, rec, replace(correlation, resolution=resolution_px * rec.pixel_size_m))


def settled(judged, **change):
    """The result as one whose error has come to rest."""
    return replace(judged.result, errors=np.r_[np.linspace(0.3, 0.06, 30), np.full(10, 0.06)], **change)


def test_a_good_result_is_called_good(judged):
    found = judge(settled(judged), judged.dataset, halves(judged))
    assert found.good and found.headline == "Good"
    text = " ".join(finding.text for finding in found.findings)
    assert "photon noise alone leaves" in text and "Half data sets agree down to 20.9 nm (1.5 pixels)" in text
    numbers = found.numbers()
    assert numbers["resolution_half_bit_m"] == pytest.approx(1.5 * judged.result.pixel_size_m)
    assert numbers["photons_per_frame"] == pytest.approx(judged.dataset.frames.sum(axis=(1, 2)).mean(), rel=0.01)
    assert numbers["r_factor"] == judged.result.r_factor and sum(numbers["mode_powers"]) == pytest.approx(1)


def test_without_data_and_halves_it_says_that_it_has_not_seen_enough(judged):
    found = judge(settled(judged))
    assert found.good and found.headline.startswith("No fault seen")
    assert "give the data to compare" in found.findings[0].text
    assert "r_noise" not in found.numbers()


def test_a_result_of_another_program_has_its_r_factor_computed(judged):
    foreign = settled(judged, r_factor=float("nan"))
    assert judge(foreign).good and "not known" in judge(foreign).findings[0].text
    assert "r_factor" not in judge(foreign).numbers()
    assert judge(foreign, judged.dataset).numbers()["r_factor"] == pytest.approx(judged.result.r_factor, rel=0.02)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"r_factor": 0.5}, "the model does not explain the data"),
        ({"phase_contrast_rad": 0.01}, "an empty field, or an image that froze too early"),
        ({"phase_contrast_rad": 6.2}, "the phase wraps"),
        ({"probe": np.ones((3, 64, 64), np.complex64)}, "strongest of 3 probe modes holds 33%"),
    ],
)
def test_each_fault_is_named(judged, change, text):
    found = judge(settled(judged, **change))
    assert text in faults(found)
    assert found.headline == "Look at this: 1 point"


@pytest.mark.parametrize(
    ("errors", "text"),
    [(np.geomspace(0.5, 0.1, 30), "still falls"), (np.r_[np.geomspace(0.5, 0.1, 30), 0.3], "it diverges")],
)
def test_an_error_that_does_not_rest_is_named(judged, errors, text):
    assert text in faults(judge(replace(judged.result, errors=errors)))


def test_data_that_are_not_explained_are_named_and_no_resolution_hides_it(judged):
    """Positions in the wrong order: both halves may agree, and still the image is of nothing."""
    wrong = settled(judged, positions=judged.result.positions[::-1])
    given = replace(judged.dataset, positions=judged.dataset.positions[::-1])
    text = faults(judge(wrong, given, halves(judged)))
    assert "something is not in the model" in text and "the fault is common to both" in text


def test_a_coarse_resolution_is_named(judged):
    assert "far above the pixel" in faults(judge(settled(judged), judged.dataset, halves(judged, 9.0)))


def test_low_frequencies_that_are_not_agreed_on_are_named(judged):
    found = halves(judged)
    curve = found.correlation.correlation.copy()
    curve[:5] = 0.1
    weak = replace(found, correlation=replace(found.correlation, correlation=curve))
    assert "do not trust smooth gradients" in faults(judge(settled(judged), judged.dataset, weak))


def test_contrast_within_the_uncertainty_is_named(judged):
    sigma = np.full(judged.result.coverage.shape, judged.result.phase_contrast_rad / 4, np.float32)
    rec = settled(judged, uncertainty=sigma)
    found = judge(rec, judged.dataset)
    assert "hardly more than noise" in faults(found)
    assert found.phase_std is sigma
    given = Uncertainty(sigma / 100, sigma, "seeds", (judged.result, judged.result))
    found = judge(rec, judged.dataset, uncertainty=given)
    assert found.good and found.transfer is not None and found.correlation is None
    assert found.numbers()["phase_uncertainty_rad"] == pytest.approx(sigma[0, 0] / 100)


def test_halves_of_an_uncertainty_give_its_resolution(judged):
    sigma = np.full(judged.result.coverage.shape, 0.01, np.float32)
    found = judge(settled(judged), uncertainty=Uncertainty(sigma, sigma, "half-data", (judged.result,) * 4))
    assert found.between_halves and found.correlation.resolution == judged.result.pixel_size_m


def test_positions_that_went_far_are_named(judged):
    rng = np.random.default_rng(0)
    for pixels, good in ((0.3, True), (8.0, False)):
        given = judged.dataset.positions + rng.normal(0, pixels, (len(judged.dataset), 2)) * judged.result.pixel_size_m
        found = judge(settled(judged), replace(judged.dataset, positions=given))
        assert ("check unit, axes and encoders" in faults(found)) != good
        assert found.numbers()["position_shift_rms_px"] == pytest.approx(pixels * np.sqrt(2), rel=0.2)


def test_data_of_another_measurement_are_refused(judged):
    with pytest.raises(ReconstructionError, match="give the data that the result was made from"):
        judge(judged.result, judged.dataset.subset(slice(5)))


@pytest.mark.parametrize(
    ("length", "pixel", "text"),
    [(2.34e-8, 1e-8, "23.4 nm"), (1.5e-6, 1e-8, "1.5 µm"), (0.9999e-6, 1e-8, "1 µm"), (2.5, None, "2.5 px")],
)
def test_lengths_in_words(length, pixel, text):
    assert length_text(length, pixel) == text
