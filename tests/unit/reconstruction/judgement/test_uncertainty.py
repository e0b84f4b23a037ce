"""The stated standard deviation is the true one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError, ReconstructionError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.reconstruction.judgement import Uncertainty, uncertainty
from ptycho_bluesky.reconstruction.judgement._alignment import aligned
from ptycho_bluesky.reconstruction.judgement._uncertainty import _Redrawn


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def well_lit(result: Reconstruction, found: Uncertainty) -> np.ndarray:
    return np.isfinite(found.phase_std) & (result.coverage > 0.3)


@pytest.mark.parametrize("kind", ["half-data", "bootstrap"])
def test_it_is_the_spread_of_repeated_measurements(measure: Callable, kind):
    """The truth that only a simulation has: the same measurement, made again with other photons."""
    one = measure(3e4)
    found = uncertainty(one.dataset, one.result, 6, kind)
    repeats = np.stack([aligned(measure(3e4, seed).result, one.truth).object for seed in range(5)])
    noise = np.angle(repeats * repeats.mean(axis=0).conj())
    ok = well_lit(one.result, found)
    true = np.sqrt((noise[:, ok] ** 2).sum(axis=0).mean() / 4)
    assert rms(found.phase_std[ok]) == pytest.approx(true, rel=0.35)
    amplitude = np.sqrt(np.abs(repeats)[:, ok].var(axis=0, ddof=1).mean())
    assert rms(found.amplitude_std[ok]) == pytest.approx(amplitude, rel=0.35)


def test_it_is_the_true_error_within_a_factor_of_two(judged):
    found = uncertainty(judged.dataset, judged.result, 6)
    error = np.angle(aligned(judged.result, judged.truth).object * judged.truth.object[0].conj())
    ok = well_lit(judged.result, found)
    assert 0.5 < rms(found.phase_std[ok]) / rms(error[ok]) < 2


def test_it_falls_with_the_root_of_the_dose(measure: Callable):
    low, high = (uncertainty(measure(p).dataset, measure(p).result, 4, "bootstrap") for p in (3e4, 3e5))
    assert low.typical_rad / high.typical_rad == pytest.approx(np.sqrt(10), rel=0.35)


def test_where_little_light_falls_it_is_larger(judged):
    found, coverage = uncertainty(judged.dataset, judged.result, 4), judged.result.coverage
    known = np.isfinite(found.phase_std)
    assert found.phase_std.shape == coverage.shape
    assert (known <= judged.result.field_of_view).all()
    assert rms(found.phase_std[known & (coverage < 0.3)]) > 1.5 * rms(found.phase_std[known & (coverage > 0.7)])


def test_another_order_of_frames_holds_no_photon_noise(measure: Callable):
    one = measure(3e4)
    seeds, noise = (uncertainty(one.dataset, one.result, 2, kind).typical_rad for kind in ("seeds", "bootstrap"))
    assert 0 < seeds < noise / 2


def test_counts_are_drawn_about_the_measured_ones_and_the_same_at_each_reading(judged):
    drawn = _Redrawn(judged.dataset.frames, (0, 1))
    frames = judged.dataset.frames[3:9].astype(float)
    chi2 = ((drawn[3:9] - frames) ** 2).sum() / frames.sum()
    assert chi2 == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(drawn[3:9][2:], drawn[5:9])
    assert not np.array_equal(drawn[3:9], _Redrawn(judged.dataset.frames, (0, 2))[3:9])


def test_frames_that_are_bad_stay_bad(judged):
    frames = judged.dataset.frames[:4].astype(np.float32)
    frames[0, 0, 0], frames[1, 2, 2] = np.nan, -1
    drawn = _Redrawn(frames, (0, 0))[0:4]
    assert np.isnan(drawn[0, 0, 0]) and drawn[1, 2, 2] == -1 and (drawn[2:] >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"members": 1}, "members is 1; allowed are 2 to 1000"),
        ({"members": 5}, "even numbers for 'half-data'"),
        ({"kind": "jackknife"}, "kind is 'jackknife'; allowed are"),
        ({"should_stop": lambda: True}, "given up after 1 of 8"),
    ],
)
def test_what_is_not_allowed_is_refused(judged, arguments, text):
    with pytest.raises(ReconstructionError, match=text):
        uncertainty(judged.dataset, judged.result, **arguments)


def test_frames_that_are_no_counts_have_no_bootstrap(judged):
    scaled = replace(judged.dataset, frames=judged.dataset.frames * np.float32(0.37))
    with pytest.raises(DatasetError, match="no whole numbers of photons"):
        uncertainty(scaled, judged.result, 2, "bootstrap")
