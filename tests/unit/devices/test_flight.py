"""When frames of a flight are taken."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_bluesky.devices._flight import RUN_UP_S, Flight, frame_times
from ptycho_bluesky.experiment import FlyPath


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    period=st.floats(1e-4, 1e-1),
    share=st.floats(0.1, 1.0),
    seed=st.integers(0, 99),
)
def test_frames_of_a_line_come_each_period_and_lines_after_their_turn(lengths, period, share, seed):
    stops = np.cumsum(lengths)
    lines = tuple(zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True))
    places = np.random.default_rng(seed).uniform(-5, 5, (int(stops[-1]), 2))
    path = FlyPath(places, period * share, period, lines)
    velocity = np.array([100.0, 50.0])
    begins = frame_times(path, velocity)
    assert begins[0] == pytest.approx(RUN_UP_S)
    for start, stop in lines:
        assert np.allclose(np.diff(begins[start:stop]), period)
    for _, stop in lines[:-1]:
        way = (np.abs(path.begin[stop] - path.end[stop - 1]) / velocity).max()
        assert begins[stop] - (begins[stop - 1] + path.exposure_s) == pytest.approx(RUN_UP_S + way)


def flown(begins, **options):
    taken, ended = [], threading.Event()
    results = []

    def over(error):
        results.append(error)
        ended.set()

    flight = Flight(np.asarray(begins), 0.001, lambda a, b: taken.append((a, b)), over, **options)
    return flight, taken, ended, results


def test_every_frame_is_taken_once_in_order_however_late():
    flight, taken, ended, results = flown(np.linspace(0, 0.2, 500))
    flight.start()
    assert ended.wait(5) and results == [None]
    assert [k for a, b in taken for k in range(a, b)] == list(range(500))


def test_the_first_fault_ends_it():
    ended, results = threading.Event(), []

    def take(start, stop):
        raise OSError("no space")

    flight = Flight(np.zeros(10), 0.001, take, lambda error: (results.append(error), ended.set()))
    flight.start()
    assert ended.wait(5) and str(results[0]) == "no space" and len(results) == 1 and not flight.flying
    flight.stop(None)
    assert len(results) == 1


def test_a_pause_takes_the_frame_in_progress_and_time_stands_still():
    flight, taken, ended, _ = flown([0.0, 0.05, 0.6, 0.65])
    flight.start()
    time.sleep(0.2)
    flight.pause()
    assert flight.taken == 2 and flight.flying
    time.sleep(0.2)
    began = time.monotonic()
    flight.resume()
    assert ended.wait(5) and time.monotonic() - began < 0.5 and taken[-1][1] == 4
