from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.catalog import TiledFrames, dataset_from_run, frames
from ptycho_bluesky.errors import CatalogError, DatasetError
from ptycho_bluesky.experiment import Geometry, Orientation, ProbeInfo, PtychographyMetadata

Documents = Callable[..., list[tuple[str, dict[str, Any]]]]


class Run:
    """As much of a Tiled run as is read; the whole way over a server is in test_writer and the system tests."""

    def __init__(self, docs: list[tuple[str, dict[str, Any]]], **replaced: Any) -> None:
        self.metadata = {"start": docs[0][1], "stop": docs[-1][1] if docs[-1][0] == "stop" else None}
        events = [d for n, d in docs if n == "event"]
        columns = {k: Column(np.stack([e["data"][k] for e in events])) for k in events[0]["data"]} if events else {}
        columns["time"] = Column(np.array([e["time"] for e in events]))
        columns |= {k: Column(v) for k, v in replaced.items()}
        self._streams = {"primary": columns} if events else {}
        self.uri = "http://127.0.0.1/run"

    def __getitem__(self, key: str) -> Any:
        return self._streams[key]

    def __iter__(self) -> Any:
        return iter(self._streams)


class Column:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def read(self) -> np.ndarray:
        return self.data

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.data[index]


def test_a_run_in_tiled_becomes_a_dataset(client: Any, make_documents: Documents, block: PtychographyMetadata) -> None:
    from ptycho_bluesky.catalog import tiled_writer

    docs = make_documents(12, 16, metadata=block, scan_id=7)
    writer = tiled_writer(client, batch_size=5, stop_wait_s=30)
    for name, doc in docs:
        writer(name, doc)
    dataset = dataset_from_run(client["raw"][docs[0][1]["uid"]])
    assert dataset.frames.shape == (12, 16, 16)
    np.testing.assert_allclose(dataset.positions, np.stack([np.arange(12), 2 * np.arange(12)], 1) * 1e-6)
    assert block.geometry is not None
    assert dataset.pixel_size_m == block.geometry.pixel_size_m(16)
    assert dataset.timestamps is not None and dataset.timestamps[3] == 1003.0
    assert dataset.source["raw_uid"] == docs[0][1]["uid"] and dataset.source["scan_id"] == 7
    np.testing.assert_array_equal(dataset.frames[11:12][0], docs[-2][1]["data"]["detector_image"])


@pytest.mark.parametrize("orientation", [Orientation(), Orientation(transpose=True, flip_rows=True)])
def test_orientation_and_signs_are_applied(
    make_documents: Documents, block: PtychographyMetadata, orientation: Orientation
) -> None:
    house = np.random.default_rng(0).poisson(5, (6, 16, 16)).astype(np.uint16)
    metadata = block.model_copy(update={"orientation": orientation, "axis_signs": (-1, 1)})
    dataset = dataset_from_run(Run(make_documents(6, metadata=metadata, frames=orientation.undo(house))))
    np.testing.assert_array_equal(dataset.frames[0:6], house)
    assert (dataset.positions[1:, 0] < 0).all() and (dataset.positions[1:, 1] > 0).all()


def test_the_zero_frequency_comes_to_the_centre(make_documents: Documents, block: PtychographyMetadata) -> None:
    corner = np.zeros((3, 16, 16), np.uint16)
    corner[:, 0, 0] = 9
    metadata = block.model_copy(update={"zero_frequency": "corner"})
    dataset = dataset_from_run(Run(make_documents(3, metadata=metadata, frames=corner)))
    assert (np.asarray(dataset.frames[0:3])[:, 8, 8] == 9).all()


def test_frames_are_cut_square_around_the_beam(make_documents: Documents, block: PtychographyMetadata) -> None:
    delivered = np.ones((3, 20, 32), np.uint16)
    delivered[:, 9, 14] = 99
    geometry = Geometry(energy_kev=8, distance_m=2, detector_pixel_m=75e-6, beam_center_px=(9, 14))
    dataset = dataset_from_run(
        Run(make_documents(3, metadata=block.model_copy(update={"geometry": geometry}), frames=delivered))
    )
    assert dataset.frames.shape == (3, 18, 18)
    assert (np.asarray(dataset.frames[0:3])[:, 9, 9] == 99).all()
    assert dataset.pixel_size_m == geometry.pixel_size_m(18)
    outside = geometry.model_copy(update={"beam_center_px": (1.0, 14.0)})
    with pytest.raises(DatasetError, match="beam_center_px"):
        dataset_from_run(
            Run(make_documents(3, metadata=block.model_copy(update={"geometry": outside}), frames=delivered))
        )


def test_mask_saturation_and_probe(make_documents: Documents, block: PtychographyMetadata, tmp_path: Path) -> None:
    bad = np.zeros((16, 16), bool)
    bad[2, 3] = True
    np.save(tmp_path / "mask one.npy", bad)
    probe = np.ones((2, 16, 16), np.complex64)
    np.savez(tmp_path / "probe.npz", probe=probe)
    images = np.ones((4, 16, 16), np.uint16)
    images[2, 5, 6] = 1000
    metadata = block.model_copy(
        update={
            "mask_uri": (tmp_path / "mask one.npy").as_uri(),
            "saturation": 1000.0,
            "probe": ProbeInfo(kind="file", uri=(tmp_path / "probe.npz").as_uri()),
        }
    )
    dataset = dataset_from_run(Run(make_documents(4, metadata=metadata, frames=images)))
    assert dataset.mask is not None and dataset.probe is not None
    assert sorted(map(tuple, np.argwhere(dataset.mask))) == [(2, 3), (5, 6)]
    assert dataset.probe.shape == (2, 16, 16)
    disc = block.model_copy(update={"probe": ProbeInfo(kind="disc", diameter_m=1e-6)})
    computed = dataset_from_run(Run(make_documents(4, 64, metadata=disc))).probe
    assert computed is not None and computed.shape == (1, 64, 64)


def test_an_aborted_run_gives_the_frames_that_exist(make_documents: Documents, block: PtychographyMetadata) -> None:
    docs = make_documents(9, 16, metadata=block, exit_status="abort")
    dataset = dataset_from_run(Run(docs, stage_x=np.arange(7.0)))
    assert len(dataset) == 7 and len(dataset.positions) == 7
    assert len(dataset_from_run(Run(make_documents(9, metadata=block, exit_status=None)))) == 9


def test_faults_are_named(make_documents: Documents, block: PtychographyMetadata, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no 'ptychography' block"):
        dataset_from_run(Run(make_documents(3)))
    with pytest.raises(DatasetError, match="9 frames but 7 positions although it ended well"):
        dataset_from_run(Run(make_documents(9, metadata=block), stage_x=np.arange(7.0)))
    with pytest.raises(CatalogError, match=r"no data key 'eiger'.*detector_image"):
        dataset_from_run(Run(make_documents(3, metadata=block.model_copy(update={"frames_key": "eiger"}))))
    with pytest.raises(CatalogError, match="no stream 'primary'"):
        dataset_from_run(Run([d for d in make_documents(3, metadata=block, exit_status="abort") if d[0] != "event"]))
    with pytest.raises(DatasetError, match="geometry is missing"):
        dataset_from_run(Run(make_documents(3, metadata=block.model_copy(update={"geometry": None}))))
    with pytest.raises(DatasetError, match=r"file:// address"):
        dataset_from_run(Run(make_documents(3, metadata=block.model_copy(update={"mask_uri": "http://x/m.npy"}))))
    np.save(tmp_path / "m.npy", np.zeros((3, 3), bool))
    with pytest.raises(DatasetError, match=r"shape \(3, 3\)"):
        dataset_from_run(
            Run(make_documents(3, metadata=block.model_copy(update={"mask_uri": (tmp_path / "m.npy").as_uri()})))
        )
    with pytest.raises(CatalogError, match="frames have shape"):
        dataset_from_run(Run(make_documents(3, metadata=block.model_copy(update={"frames_key": "stage_x"}))))


def test_rows_that_a_writer_appended_twice_count_once(make_documents: Documents, block: PtychographyMetadata) -> None:
    docs = make_documents(5, metadata=block)
    rows = np.array([0, 1, 2, 3, 4, 3, 4])
    once = dataset_from_run(Run(docs))
    columns = {key: column.data[rows] for key, column in Run(docs)["primary"].items() if key != block.frames_key}
    twice = dataset_from_run(Run(docs, **columns, seq_num=rows + 1))
    np.testing.assert_array_equal(twice.positions, once.positions)
    np.testing.assert_array_equal(twice.timestamps, once.timestamps)


def test_both_shapes_that_tiled_shows_of_external_frames() -> None:
    data = np.arange(5 * 8 * 8).reshape(5, 8, 8)
    flat = TiledFrames(Column(data))
    four = TiledFrames(Column(data[:, None]))
    assert flat.shape == four.shape == (5, 8, 8)
    np.testing.assert_array_equal(flat[1:4], four[1:4])
    with pytest.raises(CatalogError, match="step"):
        flat[::-1]
    with pytest.raises(CatalogError, match="frames have shape"):
        TiledFrames(Column(np.zeros((5, 2, 8, 8))))
    run = Run([("start", {"uid": "u" * 8})])
    run._streams = {"primary": {"det": Column(data[:, None])}}
    assert frames(run, "det").shape == (5, 8, 8)
