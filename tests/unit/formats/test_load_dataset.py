from __future__ import annotations

import bz2
import gzip
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.experiment import HC_KEV_M, Orientation, PtychoDataset, orientations
from ptycho_bluesky.formats import FrameView, Hdf5Frames, load_dataset, save_dataset

Write = Callable[..., Path]
DETECTOR = "entry_1/instrument_1/detector_1/"
SOURCE = "entry_1/instrument_1/source_1/"
GEOMETRY = {"energy_kev": 10.0, "distance_m": 1.5, "detector_pixel_m": 55e-6}


def assert_equal(a: PtychoDataset, b: PtychoDataset) -> None:
    for name in ("positions", "mask", "probe", "timestamps"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, err_msg=name)
    assert a.frames.dtype == b.frames.dtype
    np.testing.assert_array_equal(np.asarray(a.frames), np.asarray(b.frames))
    for name in ("geometry", "modality", "pixel_size_m", "rotation_deg", "name", "source"):
        assert getattr(a, name) == getattr(b, name), name


class TestRoundTrip:
    def test_nothing_is_lost(self, dataset: PtychoDataset, tmp_path: Path) -> None:
        save_dataset(tmp_path / "a.npz", dataset)
        assert_equal(load_dataset(tmp_path / "a.npz"), dataset)

    def test_nothing_is_made_up(self, dataset: PtychoDataset, tmp_path: Path) -> None:
        bare = PtychoDataset(dataset.frames, dataset.positions * 1e8, name="bare", source={"a": None})
        save_dataset(tmp_path / "a.npz", bare)
        assert_equal(load_dataset(tmp_path / "a.npz"), bare)

    @pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "i8", "f2", "f4", "f8"])
    def test_the_type_of_the_frames_is_kept(self, dataset: PtychoDataset, tmp_path: Path, dtype: str) -> None:
        given = replace(dataset, frames=np.asarray(dataset.frames[0:70]).astype(dtype))
        save_dataset(tmp_path / "a.npz", given)
        assert_equal(load_dataset(tmp_path / "a.npz"), given)

    def test_lazy_frames_are_written_as_well(self, cxi: Write, tmp_path: Path) -> None:
        lazy = load_dataset(cxi(), focus_to_sample_m=1e-3)
        save_dataset(tmp_path / "a.npz", lazy)
        again = load_dataset(tmp_path / "a.npz")
        assert again.geometry is not None
        assert again.geometry.focus_to_sample_m == 1e-3
        assert_equal(again, lazy)

    def test_numpy_alone_can_read_it(self, dataset: PtychoDataset, tmp_path: Path) -> None:
        save_dataset(tmp_path / "a.npz", dataset)
        with np.load(tmp_path / "a.npz") as arrays:
            np.testing.assert_array_equal(arrays["frames"], np.asarray(dataset.frames[0:70]))
            assert str(arrays["positions_unit"]) == "m"


class TestNpz:
    @pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, bytes])
    def test_the_suffix_does_not_matter(self, npz: Write, pack: Callable[[bytes], bytes]) -> None:
        plain = npz()
        other = plain.with_name("scan.dat")
        other.write_bytes(pack(plain.read_bytes()))
        np.testing.assert_array_equal(np.asarray(load_dataset(other).frames), np.asarray(load_dataset(plain).frames))

    def test_pixel_units_without_geometry(self, npz: Write) -> None:
        loaded = load_dataset(npz())
        assert loaded.pixel_size_m is None
        assert loaded.geometry is None
        np.testing.assert_array_equal(loaded.positions[:, 0], np.arange(6) * 2.0)

    def test_a_geometry_turns_pixels_into_metres(self, npz: Write) -> None:
        loaded = load_dataset(npz(), **GEOMETRY)
        pixel = HC_KEV_M / 10 * 1.5 / (16 * 55e-6)
        assert loaded.pixel_size_m == pytest.approx(pixel)
        np.testing.assert_allclose(loaded.positions[:, 0], np.arange(6) * 2.0 * pixel)
        assert loaded.object_grid().shape == load_dataset(npz()).object_grid().shape

    def test_pixel_size_without_geometry(self, npz: Write) -> None:
        loaded = load_dataset(npz(pixel_size_m=2e-8))
        assert loaded.pixel_size_m == 2e-8
        assert loaded.positions[1, 0] == 4e-8

    def test_options_win_over_the_file(self, npz: Write) -> None:
        loaded = load_dataset(npz(**GEOMETRY), energy_kev=5.0)
        assert loaded.geometry is not None
        assert loaded.geometry.energy_kev == 5.0
        assert loaded.geometry.distance_m == 1.5

    def test_zero_frequency_in_the_corner_comes_to_the_middle(self, npz: Write) -> None:
        frames = np.zeros((6, 16, 16), np.uint16)
        frames[:, 0, 0], frames[:, 1, 2] = 9, 5
        mask = np.zeros((16, 16), bool)
        mask[0, 0] = True
        loaded = load_dataset(npz(frames=frames, mask=mask, zero_frequency="corner"))
        image = np.asarray(loaded.frames[0:1])[0]
        assert image[8, 8] == 9
        assert image[9, 10] == 5
        assert loaded.mask is not None
        assert loaded.mask[8, 8]

    def test_signs_and_swap_of_positions(self, npz: Write) -> None:
        plain = load_dataset(npz()).positions
        turned = load_dataset(npz(), swap_axes=True, axis_signs=(1, -1)).positions
        np.testing.assert_array_equal(turned, plain[:, ::-1] * [1, -1])

    def test_options_may_come_from_json(self, npz: Write) -> None:
        options = {"orientation": {"flip_rows": True}, "axis_signs": [1, -1], "beam_center_px": [7, 8], "crop": 14}
        a = load_dataset(npz(), **json.loads(json.dumps(options)))
        b = load_dataset(
            npz(), orientation=Orientation(flip_rows=True), axis_signs=(1, -1), beam_center_px=(7.0, 8.0), crop=14
        )
        assert_equal(a, b)

    def test_first_frames_only(self, npz: Write) -> None:
        loaded = load_dataset(npz(timestamps=np.arange(6.0)), max_frames=4)
        assert len(loaded) == len(loaded.positions) == 4
        assert loaded.timestamps is not None
        assert len(loaded.timestamps) == 4

    def test_one_probe_mode_may_lack_its_axis(self, npz: Write) -> None:
        probe = load_dataset(npz(probe=np.ones((16, 16)))).probe
        assert probe is not None
        assert probe.shape == (1, 16, 16)
        assert probe.dtype == np.complex64

    def test_tike(self, npz: Write) -> None:
        data = np.zeros((1, 6, 16, 16), np.float32)
        data[..., 0, 0] = 7
        scan = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
        probe = np.ones((1, 1, 1, 2, 16, 16), np.complex64)
        path = npz(frames=None, positions=None, positions_unit=None, data=data, scan=scan, probe=probe)
        loaded = load_dataset(path)
        assert loaded.source["format"] == "tike"
        assert loaded.pixel_size_m is None
        assert loaded.probe is not None
        assert loaded.probe.shape == (2, 16, 16)
        np.testing.assert_array_equal(loaded.positions, scan[0])
        assert (np.asarray(loaded.frames)[:, 8, 8] == 7).all()


class TestCrop:
    def test_far_field_pixels_grow_and_pixel_positions_shrink(self, npz: Write) -> None:
        whole, cropped = load_dataset(npz(**GEOMETRY)), load_dataset(npz(**GEOMETRY), crop=8)
        assert cropped.frame_shape == (8, 8)
        assert whole.pixel_size_m is not None
        assert cropped.pixel_size_m == pytest.approx(2 * whole.pixel_size_m)
        np.testing.assert_allclose(cropped.positions, whole.positions)
        np.testing.assert_allclose(load_dataset(npz(), crop=8).positions, load_dataset(npz()).positions / 2)

    def test_the_middle_stays_the_middle(self, npz: Write) -> None:
        frames = np.zeros((6, 16, 16), np.uint16)
        frames[:, 8, 8] = 1
        image = np.asarray(load_dataset(npz(frames=frames), crop=10).frames)[0]
        assert image[5, 5] == 1

    @pytest.mark.parametrize("orientation", orientations())
    def test_the_beam_comes_to_the_middle(self, npz: Write, orientation: Orientation) -> None:
        frames = np.zeros((6, 20, 24), np.uint16)
        frames[:, 9, 13] = 1
        path = npz(frames=frames, positions=np.zeros((6, 2)), positions_unit="m", **GEOMETRY)
        loaded = load_dataset(path, beam_center_px=(9.0, 13.0), orientation=orientation)
        size = loaded.frame_shape[0]
        assert size >= 18
        assert np.asarray(loaded.frames)[0, size // 2, size // 2] == 1

    def test_the_probe_is_cropped_with_the_detector(self, npz: Write) -> None:
        y, x = np.indices((32, 32)) - 16
        probe = np.exp(-(y**2 + x**2) / 60).astype(np.complex64)[None]
        frames = np.ones((6, 32, 32), np.uint16)
        cropped = load_dataset(npz(frames=frames, probe=probe), crop=16).probe
        assert cropped is not None
        assert (np.abs(cropped) ** 2).sum() == pytest.approx((np.abs(probe) ** 2).sum(), rel=1e-3)
        np.testing.assert_allclose(cropped[0], 2 * probe[0, ::2, ::2], atol=2e-2)

    def test_near_field_crop_keeps_the_pixel(self, npz: Write) -> None:
        near = {**GEOMETRY, "focus_to_sample_m": 0.01, "modality": "near-field", "probe": np.ones((1, 16, 16))}
        whole, cropped = load_dataset(npz(**near)), load_dataset(npz(**near), crop=8)
        assert whole.pixel_size_m == cropped.pixel_size_m
        assert cropped.probe is not None
        assert cropped.probe.shape == (1, 8, 8)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 13),
    width=st.integers(8, 13),
    orientation=st.sampled_from(orientations()),
    corner=st.booleans(),
)
def test_views_agree_with_the_orientation_and_the_middle(
    height: int, width: int, orientation: Orientation, corner: bool
) -> None:
    frame = np.arange(height * width).reshape(height, width)
    view = FrameView((height, width), orientation, corner)
    seen = view.apply(frame[None])[0]
    assert seen.shape == view.shape == orientation.shape((height, width))
    if corner:
        assert seen[view.shape[0] // 2, view.shape[1] // 2] == frame[0, 0]
    else:
        np.testing.assert_array_equal(seen, orientation.apply(frame))
        for row, column in itertools.product((0, height - 1), (0, width // 2)):
            y, x = view.place((row, column))
            assert seen[int(y), int(x)] == frame[row, column]


def _measured(name: str) -> Path:
    folder = os.environ.get("PTYCHO_BLUESKY_DATA")
    if not folder:
        pytest.skip("needs measured data: set PTYCHO_BLUESKY_DATA to its folder")
    return Path(folder) / name


@pytest.mark.data
def test_siemens_star() -> None:
    star = load_dataset(_measured("siemens_star_small.npz.bz2"))
    assert star.frames.shape == (516, 128, 128)
    assert star.pixel_size_m is None
    assert star.probe is not None
    assert star.probe.shape == (1, 128, 128)
    assert np.ptp(star.positions, axis=0) == pytest.approx((332, 329), abs=1)
    mean = np.asarray(star.frames).mean(axis=0)
    assert mean.sum() == pytest.approx(461_213, rel=1e-4)
    assert mean[32:96, 32:96].sum() > 0.95 * mean.sum()


@pytest.mark.data
def test_petra_near_field() -> None:
    p25 = load_dataset(_measured("petra3_p25_near_field.cxi"), focus_to_sample_m=3.65e-3)
    assert isinstance(p25.frames, Hdf5Frames)
    assert p25.modality == "near-field"
    assert p25.geometry is not None
    assert p25.geometry.magnification == pytest.approx(307.85, abs=0.01)
    assert p25.geometry.energy_kev == pytest.approx(12.66, abs=0.01)
    assert p25.pixel_size_m == pytest.approx(178.66e-9, rel=1e-4)
    assert p25.mask is not None
    assert p25.mask.sum() == 5
    with h5py.File(_measured("petra3_p25_near_field.cxi")) as file:
        translation = file["entry_1/sample_1/geometry_1/translation"][()]
    np.testing.assert_allclose(p25.positions, translation[:, [1, 0]], rtol=1e-6)
    p25.frames.close()


@pytest.mark.data
def test_petra_read_as_far_field_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    load_dataset(_measured("petra3_p25_near_field.cxi"))
    assert "focus_to_sample_m" in caplog.text
