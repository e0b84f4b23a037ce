import subprocess
import sys
import textwrap
import time
import uuid

import numpy as np
import pytest

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream import LiveBoard, LiveView, find_segments, live_views
from ptycho_bluesky.stream._latest import Latest
from ptycho_bluesky.stream._segment import Segment


def test_a_reader_never_sees_half_a_value():
    segment = Segment.create(f"test-{uuid.uuid4().hex}", Latest.size(1 << 16))
    code = """
        import sys, time
        from ptycho_bluesky.stream._latest import Latest
        from ptycho_bluesky.stream._segment import Segment
        segment = Segment.attach(sys.argv[1]); latest = Latest(segment.buffer, 1 << 16)
        end = time.monotonic() + 1.0
        n = 0
        while time.monotonic() < end:
            n += 1
            latest.write(bytes([n % 256]) * (1000 + 97 * n % 60000))
            if n % 20 == 0:
                time.sleep(0.001)
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), segment.name])
    latest, seen = Latest(segment.buffer, 1 << 16), 0
    while writer.poll() is None:
        value = latest.read()
        if value:
            seen += 1
            assert value == value[:1] * len(value)
    assert seen > 100
    latest.release()
    segment.close()
    segment.unlink()


def test_a_value_that_is_too_large_is_refused():
    region = memoryview(bytearray(Latest.size(64)))
    latest = Latest(region, 64)
    assert latest.read() is None
    latest.write(b"ab", b"cd")
    with pytest.raises(InferenceError, match="does not fit"):
        latest.write(bytes(65))
    assert latest.read() == b"abcd"


def test_status_survives_its_writer_and_tells_that_it_is_gone():
    name = f"test-{uuid.uuid4().hex}"
    code = """
        import sys
        from ptycho_bluesky.stream import LiveBoard
        from ptycho_bluesky.stream._live import own_process
        board = LiveBoard.attach(sys.argv[1])
        board.write({"state": "running", "frames": 7, "unknown": 1, **own_process()})
        print("written", flush=True); sys.stdin.read()
    """
    board = LiveBoard.create(name)
    with LiveView(name) as view:
        assert view.status().state == "starting"
        assert view.image() is None
        assert name in list(live_views())
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert writer.stdout.readline() == b"written\n"
        assert view.status().frames == 7 and view.status().alive
        times = []
        for _ in range(50):
            start = time.perf_counter()
            view.status()
            times.append(time.perf_counter() - start)
        assert float(np.median(times)) < 2e-3
        writer.kill()
        writer.communicate()
        assert view.status().frames == 7 and not view.status().alive
    board.close()
    board.segment.unlink()
    assert not list(find_segments(name))
    with pytest.raises(InferenceError, match="no shared segment"):
        LiveView(name)
