import threading
import time

import h5py
import numpy as np
import pytest
from event_model import compose_run

from ptycho_bluesky.errors import DatasetError, FormatError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.stream import FileSlice, Frame, FrameRange, RunReader, SliceReader

METADATA = PtychographyMetadata(frames_key="det", position_keys=("y", "x"), position_unit="px")
ARRAY = {"dtype": "array", "shape": [8, 8], "source": "test"}
NUMBER = {"dtype": "number", "shape": [], "source": "test"}
EXTERNAL = {**ARRAY, "shape": [1, 8, 8], "external": "STREAM:", "dtype_numpy": "<u2"}
EXTERNAL_NUMBER = {**NUMBER, "external": "STREAM:", "dtype_numpy": "<f8"}


class Run:
    """The documents of a run, fed as they are made."""

    def __init__(self, **data_keys):
        self.reader, self.run, self.items = RunReader(METADATA), compose_run(), []
        self.feed("start", self.run.start_doc)
        self.bundle = self.run.compose_descriptor(name="primary", data_keys=data_keys)
        self.feed("descriptor", self.bundle.descriptor_doc)
        self.resources = {}

    def feed(self, name, doc):
        self.items += self.reader.feed(name, doc)

    def event(self, seq_num, **data):
        stamps = dict.fromkeys(data, 1.0)
        self.feed("event", self.bundle.compose_event(data=data, timestamps=stamps, seq_num=seq_num, validate=False))

    def datum(self, key, start, stop, seq=None):
        if key not in self.resources:
            uri = f"file://localhost/data/a%20scan/{key}.h5"
            parameters = {"dataset": f"/entry/{key}", "chunk_shape": [1]}
            made = self.run.compose_stream_resource(
                mimetype="application/x-hdf5", uri=uri, data_key=key, parameters=parameters
            )
            self.feed("stream_resource", made.stream_resource_doc)
            self.resources[key] = made
        numbers = {"start": start + 1, "stop": stop + 1} if seq is None else seq
        doc = self.resources[key].compose_stream_datum(
            {"start": start, "stop": stop}, seq_nums=numbers, descriptor=self.bundle.descriptor_doc
        )
        self.feed("stream_datum", doc)


def test_pixels_in_events_come_as_frames():
    run = Run(det=ARRAY, y=NUMBER, x=NUMBER)
    assert run.reader.frame_shape == (8, 8)
    for k in range(3):
        run.event(k + 1, det=np.full((8, 8), k), y=0.5 * k, x=-k)
    run.event(4, det=np.ones((1, 8, 8)), y=1, x=1)
    assert all(isinstance(item, Frame) for item in run.items)
    assert [(f.index, f.y, f.x) for f in run.items[:3]] == [(0, 0.0, 0.0), (1, 0.5, -1.0), (2, 1.0, -2.0)]
    assert run.items[3].pixels.shape == (8, 8)


def test_pages_are_unpacked():
    run = Run(det=ARRAY, y=NUMBER, x=NUMBER)
    page = {
        "descriptor": run.bundle.descriptor_doc["uid"],
        "seq_num": [1, 2],
        "time": [5.0, 6.0],
        "data": {"det": np.arange(128).reshape(2, 8, 8), "y": [1.0, 2.0], "x": [3.0, 4.0]},
    }
    run.feed("event_page", page)
    assert [(f.index, f.y, f.x, f.time) for f in run.items] == [(0, 1.0, 3.0, 5.0), (1, 2.0, 4.0, 6.0)]
    np.testing.assert_array_equal(run.items[1].pixels, np.arange(64, 128).reshape(8, 8))


def test_ranges_of_a_file_with_positions_in_a_file():
    run = Run(det=EXTERNAL, y=EXTERNAL_NUMBER, x=EXTERNAL_NUMBER)
    run.datum("det", 0, 10)
    run.datum("y", 0, 6)
    assert run.items == []
    run.datum("x", 0, 20)
    run.datum("y", 6, 10)
    run.datum("det", 10, 12)
    assert run.reader.unmatched == 2
    run.datum("y", 10, 20)
    first, second, third = run.items
    assert (first.index, len(first), second.index, len(second), third.index) == (0, 6, 6, 4, 10)
    assert second.frames == FileSlice("/data/a scan/det.h5", "/entry/det", 6, 10)
    assert second.y == FileSlice("/data/a scan/y.h5", "/entry/y", 6, 10)
    assert third.x == FileSlice("/data/a scan/x.h5", "/entry/x", 10, 12)
    assert run.reader.unmatched == 0


@pytest.mark.parametrize("events_first", [True, False])
def test_frames_in_a_file_join_positions_in_events(events_first):
    run = Run(det=EXTERNAL, y=NUMBER, x=NUMBER)

    def events():
        for k in (0, 1, 2, 4):  # the Event of frame 3 never comes
            run.event(k + 1, y=float(k), x=10.0 + k)

    if events_first:
        events()
    run.datum("det", 0, 5)
    if not events_first:
        events()
    found = [(item.index + k, item.y[k], item.x[k]) for item in run.items for k in range(len(item))]
    assert found == [(k, float(k), 10.0 + k) for k in (0, 1, 2, 4)]
    assert run.reader.unmatched == 1
    assert all(isinstance(item, FrameRange) for item in run.items)


def test_numbers_come_from_seq_nums_where_a_file_begins_elsewhere():
    run = Run(det=EXTERNAL, y=NUMBER, x=NUMBER)
    run.event(1, y=1.0, x=2.0)
    run.datum("det", 100, 101, seq={"start": 1, "stop": 2})
    (item,) = run.items
    assert (item.index, item.frames.start) == (0, 100)


def test_other_streams_and_keys_pass_by():
    run = Run(det=ARRAY, y=NUMBER, x=NUMBER)
    other = run.run.compose_descriptor(name="baseline", data_keys={"energy": NUMBER})
    run.feed("descriptor", other.descriptor_doc)
    run.feed("event", other.compose_event(data={"energy": 8.0}, timestamps={"energy": 1.0}))
    assert run.items == []


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"det": ARRAY, "y": NUMBER}, r"lacks the data keys \['x'\]"),
        ({"det": {**ARRAY, "shape": [5, 8, 8]}, "y": NUMBER, "x": NUMBER}, "5 frames an event"),
        ({"det": ARRAY, "y": EXTERNAL_NUMBER, "x": NUMBER}, "that join is not supported live"),
    ],
)
def test_runs_that_cannot_be_followed_say_why(keys, text):
    with pytest.raises(DatasetError, match=text):
        Run(**keys)


def test_files_of_other_kinds_say_so():
    run = Run(det=EXTERNAL, y=NUMBER, x=NUMBER)
    made = run.run.compose_stream_resource(
        mimetype="multipart/related;type=image/tiff", uri="file://localhost/d/", data_key="det", parameters={}
    )
    run.feed("stream_resource", made.stream_resource_doc)
    doc = made.compose_stream_datum({"start": 0, "stop": 1}, descriptor=run.bundle.descriptor_doc)
    with pytest.raises(DatasetError, match="let the detector write HDF5"):
        run.feed("stream_datum", doc)


def test_rows_are_waited_for_while_a_writer_writes(tmp_path):
    path = tmp_path / "swmr.h5"
    file = h5py.File(path, "w", libver="latest")
    data = file.create_dataset("d", (0, 4), "u2", maxshape=(None, 4), chunks=(2, 4))
    file.swmr_mode = True

    def write():
        for k in range(4):
            time.sleep(0.05)
            data.resize(k + 1, axis=0)
            data[k] = k
            data.flush()

    writer = threading.Thread(target=write)
    writer.start()
    reader = SliceReader(timeout_s=5)
    np.testing.assert_array_equal(reader.read(FileSlice(str(path), "d", 1, 4))[:, 0], [1, 2, 3])
    writer.join()
    reader.close()
    file.close()


def test_rows_that_never_come_are_a_fault_not_a_hang(tmp_path):
    reader = SliceReader(timeout_s=0.1)
    with pytest.raises(FormatError, match="cannot be read"):
        reader.read(FileSlice(str(tmp_path / "none.h5"), "d", 0, 1))
    with h5py.File(tmp_path / "short.h5", "w") as file:
        file["d"] = np.zeros((2, 3))
    with pytest.raises(FormatError, match="rows 1 to 5 of 'd'"):
        reader.read(FileSlice(str(tmp_path / "short.h5"), "d", 1, 5))
    reader.close()
