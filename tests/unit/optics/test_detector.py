import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.optics import DetectorModel

SHAPE = (64, 96)


def measured(detector: DetectorModel, mean: float, frames: int = 200, seed: int = 0) -> np.ndarray:
    return detector.measure(np.full((frames, *SHAPE), mean, np.float32), np.random.default_rng(seed))


@pytest.mark.parametrize("mean", [0.0, 0.3, 4.0, 3000.0])
def test_shot_noise_has_the_variance_of_its_mean(mean: float) -> None:
    counts = measured(DetectorModel(), mean, 60).astype(float)
    assert counts.mean() == pytest.approx(mean, rel=5e-3, abs=1e-12)
    assert counts.var() == pytest.approx(mean, rel=2e-2, abs=1e-12)


def test_background_adds_to_the_light() -> None:
    assert measured(DetectorModel(background=0.25), 2.0).mean() == pytest.approx(2.25, rel=5e-3)


def test_saturation_cuts_and_chooses_the_type() -> None:
    counts = measured(DetectorModel(saturation=100), 100.0, 5)
    assert counts.dtype == np.uint16 and counts.max() == 100
    assert DetectorModel(saturation=65535).dtype == np.uint16
    assert DetectorModel(saturation=65536).dtype == np.uint32
    flood = DetectorModel().measure(np.full((2, 2), 1e12), np.random.default_rng(0))
    assert flood.dtype == np.uint32 and (flood == 2**32 - 1).all()


BAD = DetectorModel(
    dead_fraction=0.02, hot_fraction=0.03, hot_counts=5000, modules=(2, 3), gap_px=4, beamstop_px=11, seed=5
)


def test_the_mask_is_what_the_frames_show() -> None:
    mean = measured(BAD, 50.0).mean(axis=0)
    wrong = np.abs(mean - 50) > 5
    np.testing.assert_array_equal(BAD.mask(SHAPE), wrong)


def test_each_kind_of_bad_pixel_reads_what_it_should() -> None:
    light = np.full((40, *SHAPE), 50.0)
    rng = np.random.default_rng(0)
    dead = DetectorModel(dead_fraction=0.05)
    hot = DetectorModel(hot_fraction=0.05, hot_counts=700)
    assert (dead.measure(light, rng)[:, dead.mask(SHAPE)] == 0).all()
    assert dead.mask(SHAPE).mean() == pytest.approx(0.05, abs=0.01)
    assert hot.measure(light, rng)[:, hot.mask(SHAPE)].mean() == pytest.approx(700, rel=0.01)
    gaps = DetectorModel(modules=(2, 3), gap_px=4)
    mask = gaps.mask(SHAPE)
    assert mask[:, 0].nonzero()[0].tolist() == [30, 31, 32, 33]
    assert mask[0].nonzero()[0].tolist() == [30, 31, 32, 33, 62, 63, 64, 65]
    assert (gaps.measure(light, rng)[:, mask] == 0).all()
    stop = DetectorModel(beamstop_px=20, beamstop_transmission=0.1)
    behind = stop.mask(SHAPE)
    assert behind[32, 48] and behind.sum() == pytest.approx(np.pi * 100, rel=0.05)
    assert stop.measure(light, rng)[:, behind].mean() == pytest.approx(5, rel=0.02)


def test_it_is_reproducible_and_seeds_differ() -> None:
    again = DetectorModel.model_validate_json(BAD.model_dump_json())
    np.testing.assert_array_equal(BAD.mask(SHAPE), again.mask(SHAPE))
    np.testing.assert_array_equal(measured(BAD, 3.0, 2), measured(again, 3.0, 2))
    assert (measured(BAD, 3.0, 2, seed=1) != measured(BAD, 3.0, 2)).any()
    assert (BAD.mask(SHAPE) != BAD.model_copy(update={"seed": 6}).mask(SHAPE)).any()


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 50), st.floats(0, 80)
)
@settings(deadline=None, max_examples=40)
def test_any_module_layout_fits_any_frame(h: int, w: int, down: int, across: int, gap: int, stop: float) -> None:
    detector = DetectorModel(modules=(down, across), gap_px=gap, beamstop_px=stop)
    assert detector.mask((h, w)).shape == (h, w)
    counts = detector.measure(np.full((h, w), 100.0), np.random.default_rng(0))
    np.testing.assert_array_equal(counts == 0, detector.mask((h, w)))


@pytest.mark.parametrize("light", [-1.0, float("nan"), 1e30])
def test_impossible_light_is_refused(light: float) -> None:
    with pytest.raises(DatasetError, match="expected photons go from"):
        measured(DetectorModel(), light, 1)
    with pytest.raises(DatasetError, match=r"shape \(64,\)"):
        DetectorModel().measure(np.ones(64), np.random.default_rng(0))


@pytest.mark.parametrize(
    "wrong", [{"dead_fraction": 0.6}, {"saturation": 0}, {"modules": (0, 1)}, {"gap_px": -1}, {"noise": 1}]
)
def test_faults_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DetectorModel(**wrong)
