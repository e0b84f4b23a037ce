import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ophyd.utils import LimitError

from ptycho_bluesky.devices import Alarm, AxisErrors, SimulatedStage
from ptycho_bluesky.errors import DeviceError


def stage(**kwargs):
    return SimulatedStage(**{"errors": None, "speedup": 1e6, **kwargs})


def test_limits_are_checked_before_anything_moves():
    s = stage(limits=(-5, 5))
    with pytest.raises(LimitError, match=r"stage_y was sent to 6 um; its limits are -5 to 5 um: nothing has moved"):
        s.y.set(6)
    with pytest.raises(LimitError, match="finite number of um"):
        s.y.set(float("nan"))
    assert s.y.position == 0 and not s.y.moving


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "fast", True])
def test_a_velocity_that_would_never_arrive_is_refused(value):
    with pytest.raises(DeviceError, match=r"stage_x_velocity was set to .*; allowed is a finite number above 0 um/s"):
        stage().x.velocity.put(value)


def test_limits_in_the_wrong_order_are_refused():
    with pytest.raises(DeviceError, match="limits of stage_y were set to"):
        stage().y.limits = (3, 3)


def test_a_move_takes_its_time():
    s = stage(velocity=100.0, settling_time_s=0.05, speedup=1.0)
    began = time.monotonic()
    status = s.x.set(10.0)
    assert not status.done and s.x.moving and s.moving
    status.wait(5)
    assert 0.15 <= time.monotonic() - began < 2
    assert s.x.position == pytest.approx(10.0) and not s.x.moving


def test_in_mid_move_it_is_where_a_ramp_is():
    s = stage(velocity=10.0, settling_time_s=0.0, speedup=1.0)
    before = time.monotonic()
    status = s.y.set(90.0)
    after = time.monotonic()
    time.sleep(0.1)
    shortest = time.monotonic() - after
    here = s.y.position
    longest = time.monotonic() - before
    assert 10 * shortest <= here <= 10 * longest
    s.y.stop(success=True)
    status.wait(1)


def test_stop_stops_there_and_the_status_says_where():
    s = stage(velocity=10.0, speedup=1.0)
    status = s.y.set(90.0)
    time.sleep(0.05)
    s.stop()
    with pytest.raises(DeviceError, match=r"stage_y was stopped at [\d.]+ um on its way to 90 um"):
        status.wait(1)
    stopped = s.y.position
    time.sleep(0.05)
    assert 0.3 < stopped < 80 and s.y.position == stopped and s.y.setpoint.get() == stopped
    s.stop()  # once more does no harm


def test_stopped_with_success_ends_the_status_well():
    s = stage(velocity=10.0, speedup=1.0)
    status = s.y.set(5.0)
    s.y.stop(success=True)
    status.wait(1)
    assert status.success and s.y.position < 5


def test_a_new_move_ends_the_old_one_with_an_error():
    s = stage(velocity=10.0, speedup=1.0)
    first = s.y.set(50.0)
    second = s.y.set(0.1)
    with pytest.raises(DeviceError, match=r"stage_y was given a new move, to 0.1 um"):
        first.wait(1)
    second.wait(5)
    assert s.y.position == pytest.approx(0.1, abs=1e-9)


def test_a_timeout_fails_in_time():
    s = stage(velocity=1.0, speedup=1.0)
    status = s.y.set(50.0, timeout=0.05)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        status.wait(5)
    assert time.monotonic() - began < 1
    s.stop()


def test_a_long_move_reports_its_progress_and_no_thread_is_left():
    s = stage(velocity=10.0, speedup=1.0)
    seen, before = [], threading.active_count()
    s.y.subscribe(lambda value, **_: seen.append(value), event_type=s.y.SUB_READBACK, run=False)
    fractions = []
    status = s.y.set(4.0)
    status.watch(lambda **progress: fractions.append(progress["fraction"]))
    status.wait(5)
    assert len(seen) >= 3 and seen == sorted(seen) and seen[-1] == pytest.approx(4.0)
    assert fractions and threading.active_count() <= before + 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.integers(0, 1000))
def test_an_ideal_stage_is_where_it_was_sent_whatever_the_way(targets, seed):
    s = stage(seed=seed)
    for target in targets:
        s.y.set(target).wait(1)
        assert s.y.position == s.y.true_position() == s.y.setpoint.get() == target


def visited(seed, read_often=False):
    s = stage(errors=AxisErrors(0.004, 0.01, 0.0005, 0.003, 0.5), seed=seed)
    places = []
    for target in (*np.linspace(-5, 5, 200), *np.linspace(5, -5, 200)):
        s.x.set(target).wait(1)
        if read_often:
            s.x.read()
        places.append((target, s.x.position, s.x.true_position()))
    return np.array(places).T


def test_errors_are_those_asked_for():
    target, encoder, true = visited(1)
    up, down = (encoder - target)[1:200], (encoder - target)[201:]
    assert down.mean() - up.mean() == pytest.approx(0.01, abs=0.002)  # backlash
    assert up.std() == pytest.approx(0.004, rel=0.25)
    hidden = true - encoder
    assert np.diff(hidden).std() == pytest.approx(np.hypot(np.sqrt(2) * 0.003, 0.5 / np.sqrt(1000)), rel=0.2)
    assert np.abs(hidden[-50:]).mean() > 3 * 0.003  # it drifts


def test_same_seed_same_places_however_often_it_is_read():
    assert (visited(3)[2] == visited(3, read_often=True)[2]).all()
    assert (visited(3)[2] != visited(4)[2]).any()


def test_axes_of_one_stage_err_on_their_own():
    s = stage(errors=AxisErrors(repeatability=0.1))
    s.x.set(1).wait(1)
    s.y.set(1).wait(1)
    assert s.x.position != s.y.position


def test_keys_units_and_hints():
    s = stage()
    assert list(s.read()) == [f"stage_{a}{b}" for a in ("y", "x", "rotation") for b in ("", "_setpoint")]
    assert s.y.hints == {"fields": ["stage_y"]} and s.hints["fields"][:2] == ["stage_y", "stage_x"]
    assert s.describe()["stage_y"]["units"] == "um" and s.describe()["stage_rotation"]["units"] == "deg"
    assert s.describe()["stage_x"]["upper_ctrl_limit"] == 100
    assert s.y.describe_configuration()["stage_y_velocity"]["units"] == "um/s"
    assert s.y.locate() == {"setpoint": 0.0, "readback": 0.0}
    s.summary()


def test_an_axis_in_motion_cannot_be_declared_elsewhere():
    s = stage(speedup=1.0)
    s.rotation.set(90)
    with pytest.raises(DeviceError, match="stage_rotation moves"):
        s.rotation.reset(0)
    s.stop()
    s.rotation.reset(12.5)
    assert s.rotation.position == 12.5


def test_move_at_the_console_waits_unless_told():
    s, ended = stage(velocity=100.0, speedup=1.0), []
    status = s.y.move(5.0, moved_cb=lambda status, obj: ended.append((status, obj)))
    assert status.done and s.y.position == pytest.approx(5.0) and ended == [(status, s.y)]
    status = s.y.move(0.0, wait=False)
    assert not status.done
    s.stop(success=True)


def test_an_alarm_keeps_going_after_a_fault(caplog):
    alarm, called, now = Alarm(), threading.Event(), time.monotonic()
    order = []
    alarm.at(now + 0.05, lambda: (order.append(2), called.set()))
    alarm.at(now + 0.01, lambda: 1 / 0)
    alarm.at(now + 0.02, lambda: order.append(1))
    assert called.wait(2) and order == [1, 2] and "ZeroDivisionError" in caplog.text
