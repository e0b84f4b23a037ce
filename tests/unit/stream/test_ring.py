import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream import FrameRing, Kind, Segment, find_segments, sweep


@pytest.fixture
def ring():
    made = FrameRing.create(f"test-{uuid.uuid4().hex}-ring", 1 << 20)
    yield made
    made.close()
    made.unlink()
    assert not list(find_segments(made.name))


def child(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start an unrelated process, with warnings as errors, whose standard error must stay empty."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcome(process: subprocess.Popen[bytes], timeout: float = 30) -> dict:
    out, err = process.communicate(timeout=timeout)
    assert err == b"", err.decode()
    assert process.returncode == 0
    return json.loads(out)


CONSUMER = """
    import json, sys, zlib
    from ptycho_bluesky.stream import FrameRing
    name, wanted = sys.argv[1], int(sys.argv[2])
    ring = FrameRing.attach(name)
    ring.become_consumer()
    seen, sums = [], []
    while len(seen) < wanted:
        if ring.wait(5):
            for record in ring.take(7):
                seen.append([record.index, record.y, record.x, record.frame.dtype.str, list(record.frame.shape)])
                sums.append(zlib.crc32(record.frame.tobytes()))
            record = None
            ring.commit()
        else:
            break
    ring.close()
    print(json.dumps({"seen": seen, "sums": sums}))
"""


def test_every_byte_arrives_in_order_in_another_process(ring):
    import zlib

    rng, consumer = np.random.default_rng(3), child(CONSUMER, ring.name, 400)
    sent, sums, index = [], [], 0
    while index < 400:  # far more than the ring holds, of many sizes and types: it wraps dozens of times
        shape = tuple(int(n) for n in rng.integers(1, 160, 2))
        frame = rng.integers(0, 255, shape).astype(rng.choice(["u1", "<u2", "<u4", "<f4", "<f8"]))
        y, x = rng.normal(size=2)
        while not ring.put(frame, index, y, x):
            time.sleep(0.001)
        sent.append([index, y, x, frame.dtype.str, list(shape)])
        sums.append(zlib.crc32(frame.tobytes()))
        index += 1
    got = outcome(consumer)
    assert got["seen"] == sent
    assert got["sums"] == sums


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 200), st.integers(1, 200)),
            st.tuples(st.just("send"), st.integers(0, 4000), st.just(0)),
            st.tuples(st.just("take"), st.integers(1, 9), st.booleans()),
        ),
        max_size=60,
    )
)
def test_it_is_a_queue_that_counts_what_it_drops(steps):
    ring = FrameRing.create(f"test-{uuid.uuid4().hex}-ring", 65536)
    try:
        ring.become_consumer()
        model, dropped = [], 0
        for number, (step, a, b) in enumerate(steps):
            if step == "put":
                frame = np.full((a, b), number % 251, np.uint16)
                if ring.put(frame, number, 0.5 * number, -number):
                    model.append(("frame", number, frame))
                else:
                    dropped += 1
                    assert model or frame.nbytes > 40000  # an empty ring takes whatever fits
            elif step == "send":
                message = {"n": number, "text": "x" * a}
                if ring.send(message):
                    model.append(("message", number, message))
            else:
                for record in ring.take(a):
                    kind, n, value = model.pop(0)
                    if kind == "message":
                        assert record.kind is Kind.MESSAGE and record.message == value
                    else:
                        assert (record.index, record.y, record.x) == (n, 0.5 * n, -n)
                        np.testing.assert_array_equal(record.frame, value)
                    record = None
                ring.commit()
            assert ring.dropped == dropped
            assert 0 <= ring.used <= ring.capacity
    finally:
        ring.close()
        ring.unlink()


def test_a_full_ring_never_makes_the_producer_wait(ring):
    frame, times = np.ones((128, 128), np.uint16), []
    for index in range(200):
        start = time.perf_counter()
        ring.put(frame, index, 0, 0)
        times.append(time.perf_counter() - start)
    assert ring.dropped > 150
    assert float(np.median(times)) < 1e-3
    assert ring.send({"type": "stop"}), "messages have room of their own"
    ring.become_consumer()
    taken = []
    while records := ring.take(1000):
        taken += [record.index for record in records if record.kind is Kind.FRAME]
        records = None
    assert taken == list(range(200 - ring.dropped))


def test_frames_may_be_views(ring):
    ring.become_consumer()
    frame = np.arange(64.0).reshape(8, 8).T[::2]
    ring.put(frame, 0, 0, 0)
    np.testing.assert_array_equal(ring.take(1)[0].frame, frame)


def test_what_a_killed_consumer_took_is_there_for_the_next(ring):
    code = """
        import sys, time
        from ptycho_bluesky.stream import FrameRing
        ring = FrameRing.attach(sys.argv[1]); ring.become_consumer()
        ring.take(3); ring.commit()
        ring.take(2)
        print("taken", flush=True)
        time.sleep(60)
    """
    for index in range(6):
        ring.put(np.full((4, 4), index), index, 0, 0)
    first = child(code, ring.name)
    assert first.stdout.readline() == b"taken\n"
    with pytest.raises(InferenceError, match="living consumer already"):
        ring.become_consumer(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    ring.become_consumer()
    taken = [[record.index for record in ring.take(9)] for _ in range(3)]
    assert taken == [[3], [4], [5]], "one by one, so that one that kills is known; then as usual"
    ring.commit()
    assert ring.used == 0
    for index in range(3):
        ring.put(np.ones((4, 4)), index, 0, 0)
    assert len(ring.take(9)) == 3


def test_a_record_that_kills_twice_is_passed_over(ring):
    code = """
        import os, signal, sys
        from ptycho_bluesky.stream import FrameRing
        ring = FrameRing.attach(sys.argv[1]); ring.become_consumer()
        while records := ring.take(8):
            if 2 in [record.index for record in records]:
                os.kill(os.getpid(), signal.SIGKILL)
            ring.commit()
        print(ring.passed_over, ring.used, flush=True)
    """
    for index in range(4):
        ring.put(np.ones((4, 4)), index, 0, 0)
    for _ in range(2):
        killed = child(code, ring.name)
        killed.communicate(timeout=30)
        assert killed.returncode == -signal.SIGKILL
    last = child(code, ring.name)
    assert last.communicate(timeout=30)[0] == b"1 0\n"


def test_the_death_of_the_producer_leaves_the_consumer_all_it_put():
    name = f"test-{uuid.uuid4().hex}-ring"
    code = """
        import os, signal, sys
        import numpy as np
        from ptycho_bluesky.stream import FrameRing
        ring = FrameRing.create(sys.argv[1], 1 << 20)
        for index in range(5):
            ring.put(np.ones((8, 8)), index, 0, 0)
        print("put", flush=True)
        sys.stdin.read()
    """
    producer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert producer.stdout.readline() == b"put\n"
    ring = FrameRing.attach(name)
    producer.kill()
    producer.communicate()
    ring.become_consumer()
    assert [record.index for record in ring.take(9)] == [0, 1, 2, 3, 4]
    assert name not in sweep(), "a segment in use is not swept"
    ring.close()
    assert {name, name + ".bell"} <= set(sweep()), "one that nobody uses is"
    assert not list(find_segments(name)) and not list(find_segments(name + ".bell"))


def test_what_a_dead_process_left_to_a_living_session_is_not_swept():
    session = f"swept-{uuid.uuid4().hex[:8]}"
    board = Segment.create(session + "-live", 4096)
    canvas = Segment.create(session + "-1-image-5", 4096)
    canvas.close()  # as after kill -9 of the edge process: its successor has not come yet
    assert not {session + "-live", session + "-1-image-5"} & set(sweep())
    Segment.attach(session + "-1-image-5").close()
    board.close()
    assert {session + "-live", session + "-1-image-5"} <= set(sweep())


def test_waiting_costs_nothing_and_ends_with_the_first_record(ring):
    ring.become_consumer()
    busy, start = time.process_time(), time.perf_counter()
    assert not ring.wait(0.3)
    assert time.perf_counter() - start >= 0.28
    assert time.process_time() - busy < 0.1
    delays = []
    for index in range(20):
        put_at: list[float] = []

        def put(index=index, put_at=put_at):
            put_at.append(time.perf_counter())
            ring.put(np.ones((4, 4)), index, 0, 0)

        timer = threading.Timer(0.01, put)
        timer.start()
        assert ring.wait(5)
        delays.append(time.perf_counter() - put_at[0])
        timer.join()
        ring.take(1)
        ring.commit()
    assert float(np.median(delays)) < 0.01


def test_what_is_not_a_ring_is_refused(ring):
    with pytest.raises(InferenceError, match="no shared segment"):
        FrameRing.attach("test-nothing")
    with pytest.raises(InferenceError, match="exists already"):
        FrameRing.create(ring.name)
    with pytest.raises(InferenceError, match="allowed are"):
        FrameRing.attach("../etc/passwd")
    with pytest.raises(InferenceError, match="enlarge /dev/shm"):
        FrameRing.create("test-huge", 1 << 60)
    assert not list(find_segments("test-huge"))


def test_no_tracker_process_is_started():
    code = """
        import json, os, sys
        from pathlib import Path
        from ptycho_bluesky.stream import FrameRing
        ring = FrameRing.create(sys.argv[1]); other = FrameRing.attach(sys.argv[1])
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        print(json.dumps({"children": children.read_text() if children.exists() else ""}))
        other.close(); ring.close(); ring.unlink()
    """
    assert outcome(child(code, f"test-{uuid.uuid4().hex}")) == {"children": ""}
