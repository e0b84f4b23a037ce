import numpy as np
import pytest
from pydantic import ValidationError

from ptycho_bluesky.optics import PositionErrors

RECORDED = np.random.default_rng(0).uniform(-1e-6, 1e-6, (500, 2))


def test_without_errors_the_record_is_true() -> None:
    np.testing.assert_array_equal(PositionErrors().true_positions(RECORDED), RECORDED)


def test_jitter_has_its_size_and_no_mean() -> None:
    offset = PositionErrors(jitter_m=3e-9, seed=2).true_positions(RECORDED) - RECORDED
    assert offset.std() == pytest.approx(3e-9, rel=0.05)
    assert abs(offset.mean()) < 5e-10
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.15


def test_drift_and_scale() -> None:
    true = PositionErrors(drift_m_per_frame=(1e-10, -2e-10), scale=(1.01, 0.98)).true_positions(RECORDED)
    expected = RECORDED * (1.01, 0.98) + np.arange(500)[:, None] * (1e-10, -2e-10)
    np.testing.assert_allclose(true, expected, rtol=1e-12)


def test_a_device_that_asks_point_by_point_sees_the_same() -> None:
    errors = PositionErrors(jitter_m=3e-9, drift_m_per_frame=(1e-10, 0), scale=(1.01, 1), seed=7)
    whole = errors.true_positions(RECORDED)
    for k in (499, 3, 3, 0):
        np.testing.assert_array_equal(errors.true_position(RECORDED[k], k), whole[k])
    assert (errors.model_copy(update={"seed": 8}).offset_m(3) != errors.offset_m(3)).all()


@pytest.mark.parametrize("wrong", [{"jitter_m": -1}, {"scale": (1, 0)}, {"drift": 1}])
def test_faults_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PositionErrors(**wrong)
