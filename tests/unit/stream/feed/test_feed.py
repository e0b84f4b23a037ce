"""From a source to a live session: positions joined, runs begun and ended, every frame accounted for."""

import uuid
from collections import deque

import numpy as np
import pytest

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.stream import FrameRing
from ptycho_bluesky.stream.feed import PositionTable, SourceFeed
from ptycho_bluesky.stream.sources import SourceCounts, SourceEnded, SourceFrame

PIXELS = PtychographyMetadata(frames_key="det", position_keys=("y", "x"), position_unit="px")
END = SourceEnded("the end")


class Scripted:
    """A source that gives what it is told to."""

    name, connected, fault = "scripted", True, ""

    def __init__(self, *answers):
        self.answers, self.counts = deque(answers), SourceCounts()

    def read(self, timeout_s):
        answer = self.answers.popleft() if self.answers else []
        if isinstance(answer, SourceEnded):
            raise answer
        return answer


class Recording:
    """A session that keeps what it is given; its ring never empties."""

    gave_up = False

    def __init__(self, mib=1):
        self.name = f"test-{uuid.uuid4().hex}"
        self.ring, self.said, self.frames = FrameRing.create(self.name, mib << 20), [], []

    def begin(self, uid, block, **more):
        self.said.append(("begin", more["expected"], more["extents"]))

    def end(self, status):
        self.said.append(("end", status))

    def send(self, message):
        self.said.append(tuple(message.values()))

    def has_room(self, nbytes):
        return True

    def put(self, pixels, index, y, x, when):
        self.frames.append((index, y, x))


@pytest.fixture
def session():
    made = Recording()
    yield made
    made.ring.close()
    made.ring.unlink()


def frames(*indices, series=0, shape=(16, 16), time=None):
    return [
        SourceFrame(i, float(i) if time is None else time(i), np.ones(shape, np.uint16), series, 0.0) for i in indices
    ]


def feed(session, source, table, **options):
    made = SourceFeed(source, session, PIXELS, table, **options)
    while source.answers:
        made.step(0)
    made.serve(lambda: True)
    return made


def table(count, **more):
    yx = np.stack([np.arange(count) * 2.0, np.arange(count) * -3.0], axis=1)
    return PositionTable(yx, np.arange(float(count)), **more)


def test_frames_get_the_position_of_their_number_in_whatever_order_they_come(session):
    source = Scripted(frames(2, 0), frames(1, 3), END)
    made = feed(session, source, table(4))
    assert session.frames == [(2, 4, -6), (0, 0, 0), (1, 2, -3), (3, 6, -9)]
    assert session.said == [("begin", 4, [[0, 6], [-9, 0]]), ("shape", [16, 16]), ("end", "success")]
    assert len(made.uids) == 1


def test_positions_by_time_with_the_stage_clock_off_by_a_second(session):
    yx = np.stack([np.arange(0, 10, 0.1), np.zeros(100)], axis=1)
    found = PositionTable(yx, 1000 + np.arange(100) * 0.01 + 1.0, by_time=True, clock_offset_s=1.0)
    feed(session, Scripted(frames(0, 1, 2, time=lambda i: 1000.205 + 0.3 * i), END), found)
    np.testing.assert_allclose([y for _, y, _ in session.frames], [2.05, 5.05, 8.05], atol=1e-6)


def test_what_the_source_lost_and_damaged_is_the_runs(session):
    source = Scripted(frames(0, 1), END, frames(0, series=1), END)
    source.counts.dropped, source.counts.damaged = 5, {"chunk": 1}
    made = SourceFeed(source, session, PIXELS, table(3))
    made.step(0)
    source.counts.dropped, source.counts.discarded, source.counts.damaged = 7, 1, {"chunk": 4}
    for _ in range(3):
        made.step(0)
    made.serve(lambda: True)
    assert ("refused", "damaged: chunk", 0, 3) in session.said and ("lost", 3) in session.said
    assert sum(said[0] == "lost" for said in session.said) == 1, "the second run lost nothing"
    assert len(made.uids) == 2


def test_a_source_that_starts_again_begins_a_new_run_even_in_another_shape(session):
    feed(session, Scripted(frames(0, 1), frames(0, series=1, shape=(32, 32)), END), table(3))
    assert [said[0] for said in session.said] == ["begin", "shape", "end", "begin", "shape", "end"]
    assert session.said[2] == ("end", "restarted") and session.said[4] == ("shape", [32, 32])
    assert session.frames[-1] == (0, 0, 0)


def test_a_source_that_falls_silent_ends_its_run(session):
    feed(session, Scripted(frames(0, 1), [], []), table(3), silence_s=-1.0)
    assert session.said[-1] == ("end", "silent")


def test_frames_without_a_position_and_frames_too_large_are_counted(session):
    feed(session, Scripted(frames(0, 7), frames(1, shape=(1024, 1024)), END), table(3))
    assert session.frames == [(0, 0, 0)]
    assert ("refused", "no position", 0, 1) in session.said
    assert ("refused", "larger than the ring", 1, 1) in session.said


@pytest.mark.parametrize("kind", ["npy", "npz", "npz-index", "npz-time", "csv", "csv-time"])
def test_positions_are_read_from_files(tmp_path, kind):
    yx = np.array([[0.5, 1], [2, 3], [4, 5]])
    form, _, by = kind.partition("-")
    path = tmp_path / f"positions.{form}"
    if form == "npy":
        np.save(path, yx)
    elif form == "npz":
        np.savez(path, positions=yx, **{"index": {"indices": [4, 5, 6]}, "time": {"times": [4, 5, 6]}}.get(by, {}))
    else:
        names, rows = ("time,y,x", np.c_[[4, 5, 6], yx]) if by else ("y,x", yx)
        np.savetxt(path, rows, delimiter=",", header=names)
    read = PositionTable.read(str(path))
    np.testing.assert_array_equal(read.yx, yx)
    np.testing.assert_array_equal(read.keys, [4, 5, 6] if by else [0, 1, 2])
    assert read.by_time == (by == "time") and read.extents == [[0.5, 4], [1, 5]]


def test_files_that_are_no_positions_are_refused_in_words(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(5))
    (tmp_path / "names.csv").write_text("a,b\n1,2\n")
    np.save(tmp_path / "nan.npy", np.full((3, 2), np.nan))
    for name, text in {"one.npy": "N, 2", "names.csv": "'y'", "nan.npy": "finite", "none.npy": "No such file"}.items():
        with pytest.raises(FormatError, match=text):
            PositionTable.read(str(tmp_path / name))
    assert PositionTable.read("frames").extents is None


@pytest.mark.parametrize("content", [b"hello\n", b""])
def test_a_file_that_holds_no_positions_is_refused_without_numpys_advice(tmp_path, content):
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(FormatError, match=r"it is no .npy or .npz file, or a damaged one; give 'frames'"):
        PositionTable.read(str(tmp_path / "notes.txt"))
