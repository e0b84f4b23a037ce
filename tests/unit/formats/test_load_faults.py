from __future__ import annotations

import bz2
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError, FormatError
from ptycho_bluesky.formats import Hdf5Frames, load_dataset

Write = Callable[..., Path]
DETECTOR = "entry_1/instrument_1/detector_1/"
SOURCE = "entry_1/instrument_1/source_1/"


def fails(path: Path, error: type[Exception], *parts: str, **options: Any) -> str:
    """Load, expect the error, and that its text names the file and all `parts`."""
    with pytest.raises(error) as caught:
        load_dataset(path, **options)
    text = str(caught.value)
    for part in (str(path), *parts):
        assert part in text
    return text


def test_a_missing_file_is_named_with_what_is_beside_it(npz: Write) -> None:
    there = npz("star.npz")
    fails(there.with_name("stra.npz"), FormatError, "does not exist", "holds star.npz")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    fails(tmp_path / "no" / "scan.npz", FormatError, "does not exist", f"folder {tmp_path / 'no'}")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    fails(tmp_path, FormatError, "is a folder")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.npz").touch()
    fails(tmp_path / "scan.npz", FormatError, "0 bytes")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(npz: Write) -> None:
    path = npz()
    path.chmod(0)
    fails(path, FormatError, "permission denied", "chmod")


def test_missing_permission_is_put_in_words(npz: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = npz()
    monkeypatch.setattr(Path, "open", refuse)
    fails(path, FormatError, "permission denied", "chmod")


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "scan.cxi"
    path.write_text("not at all HDF5")
    fails(path, FormatError, "no known format", "plain NPZ", "CXI")


def test_a_single_array_is_refused_with_advice(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.zeros((2, 8, 8)))
    fails(tmp_path / "frames.npy", FormatError, "need positions", "np.savez")


def test_hdf5_of_another_layout_names_its_keys(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["stuff"] = 1
    fails(tmp_path / "x.h5", FormatError, "stuff", "known are")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_npz_is_told(npz: Write, keep: float) -> None:
    path = npz()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    fails(path, FormatError, "truncated or damaged", "copy it again")


@pytest.mark.parametrize("keep", [0.3, 0.95])
def test_a_truncated_bz2_is_told(npz: Write, keep: float) -> None:
    path = npz()
    packed = bz2.compress(path.read_bytes())
    path.write_bytes(packed[: int(keep * len(packed))])
    fails(path, FormatError, "truncated or damaged", "bz2")


def test_a_bit_error_in_a_bz2_is_told(npz: Write) -> None:
    path = npz()
    packed = bytearray(bz2.compress(path.read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(bytes(packed))
    fails(path, FormatError, "scan.npz")


@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_a_truncated_hdf5_is_told(cxi: Write, keep: float) -> None:
    path = cxi()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    fails(path, FormatError, "truncated")


def test_wrong_keys_are_named_beside_the_allowed(npz: Write) -> None:
    path = npz(frames=None, patterns=np.zeros((6, 8, 8)))
    fails(path, FormatError, "patterns", "frames, positions, positions_unit", "rename")


def test_a_misspelt_key_is_not_passed_over(npz: Write) -> None:
    fails(npz(energy_keV=9.0), FormatError, "'energy_keV'", "'energy_kev'")


def test_a_missing_unit_is_not_guessed(npz: Write) -> None:
    fails(npz(positions_unit=None), FormatError, "lacks positions_unit", "'m'", "'px'")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"positions_unit": "um"}, ("'um'", "'m', 'px'")),
        ({"zero_frequency": "centre"}, ("'centre'", "'center', 'corner'")),
        ({"energy_kev": np.array([9.0, 9.1])}, ("energy_kev", "one finite number")),
        ({"energy_kev": "nine"}, ("energy_kev", "integer, float")),
        ({"distance_m": np.nan}, ("distance_m", "one finite number")),
        ({"probe": np.array("x")}, ("probe", "complex")),
        ({"frames": np.zeros((6, 16, 16), complex)}, ("complex128", "counts")),
        ({"positions": np.array(["a"] * 6)}, ("positions", "integer, float")),
        ({"beam_center_px": np.array([1.0])}, ("beam_center_px", "row, column")),
        ({"mask": np.zeros((16, 16))}, ("mask", "bool")),
        ({"positions_unit": np.array(3)}, ("positions_unit", "one text")),
    ],
)
def test_values_of_the_wrong_kind_are_refused(npz: Write, changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    fails(npz(**changes), FormatError, *parts)


def test_pickled_content_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    frames = np.array([{"evil": 1}], dtype=object)
    np.savez(path, frames=frames, positions=np.zeros((1, 2)), positions_unit="px")
    fails(path, FormatError, "cannot be read")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "scan.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    fails(path, FormatError, "readme.txt", "no NPZ")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"positions": np.zeros((5, 2))}, ("6 frames but 5 positions", "cut the longer")),
        ({"positions": np.zeros((6, 3))}, ("(6, 3)", "(N, 2)")),
        ({"frames": np.zeros((6, 16))}, ("(6, 16)", "(N, H, W)")),
        ({"frames": np.zeros((0, 16, 16)), "positions": np.zeros((0, 2))}, ("no frame",)),
        ({"positions": np.full((6, 2), np.nan)}, ("6 positions are not finite",)),
        ({"mask": np.zeros((8, 16), bool)}, ("mask has shape (8, 16)", "(16, 16)")),
        ({"mask": np.ones((16, 16), bool)}, ("every pixel bad",)),
        ({"probe": np.zeros((1, 8, 8), complex)}, ("probe has shape (1, 8, 8)",)),
        ({"probe": np.zeros(8, complex)}, ("probe has shape (8,)", "(modes, H, W)")),
        ({"timestamps": np.zeros(5)}, ("timestamps", "(6,)")),
        ({"positions_unit": "m"}, ("metres", "pixel size", "energy_kev")),
        ({"frames": np.zeros((6, 16, 20))}, ("16 x 20", "square", "crop=16")),
        ({"energy_kev": -1.0, "distance_m": 1.0, "detector_pixel_m": 1e-4}, ("energy_kev", "greater than 0")),
        ({"modality": "near-field"}, ("near field", "energy_kev")),
    ],
)
def test_content_that_does_not_fit_is_a_dataset_error(
    npz: Write, changes: dict[str, Any], parts: tuple[str, ...]
) -> None:
    fails(npz(**changes), DatasetError, *parts)


def test_several_faults_come_in_one_text(npz: Write) -> None:
    fails(npz(positions=np.zeros((5, 2)), mask=np.zeros((2, 2), bool)), DatasetError, "2 faults", "5 positions", "mask")


def test_two_pixel_sizes_that_disagree_are_refused(npz: Write) -> None:
    path = npz(energy_kev=9.0, distance_m=2.0, detector_pixel_m=75e-6, pixel_size_m=1e-9)
    fails(path, DatasetError, "1e-09", "correct the wrong one")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"axis_signs": (1, 0)}, "axis_signs is (1, 0)"),
        ({"axis_signs": [1]}, "axis_signs is [1]"),
        ({"beam_center_px": [1.0]}, "beam_center_px is [1.0]"),
        ({"orientation": {"rotate": 1}}, "rotate: Extra inputs"),
        ({"crop": 4}, "crop is 4"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"modality": "far"}, "'far-field' and 'near-field'"),
        ({"energy_kev": 9.0}, "distance_m, detector_pixel_m is missing"),
        ({"crop": 32}, "crop may be 8 to 16"),
        ({"crop": 16, "beam_center_px": (6.0, 8.0)}, "crop may be 8 to 12"),
        ({"beam_center_px": (-3.0, 8.0)}, "beam_center_px"),
        ({"focus_to_sample_m": 1e-3}, "near field needs a geometry"),
        (
            {"modality": "far-field", "focus_to_sample_m": 1.0}
            | {"energy_kev": 9.0, "distance_m": 2.0, "detector_pixel_m": 75e-6},
            "belongs to the near field",
        ),
    ],
)
def test_wrong_options_are_refused(npz: Write, options: dict[str, Any], part: str) -> None:
    fails(npz(), DatasetError, part, **options)


def test_pixels_of_frames_that_are_not_square_are_refused(npz: Write) -> None:
    fails(npz(frames=np.ones((6, 16, 20))), DatasetError, "16 x 20", "positions in metres", crop=16)


@pytest.mark.parametrize("options", [{"beam_center_px": (8.0, 8.0)}, {"modality": "near-field"}])
def test_the_corner_goes_with_a_plain_far_field_only(npz: Write, options: dict[str, Any]) -> None:
    path = npz(zero_frequency="corner", energy_kev=9.0, distance_m=2.0, detector_pixel_m=75e-6)
    fails(path, DatasetError, "corner", **options)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"data": np.zeros((2, 6, 16, 16))}, ("data", "(1, N, H, W)")),
        ({"scan": np.zeros((2, 6, 2))}, ("scan", "(1, N, 2)")),
        ({"probe": np.zeros((1, 2, 1, 1, 16, 16), complex)}, ("probe", "(1, 1, 1, modes, H, W)")),
    ],
)
def test_tike_shapes(npz: Write, changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    values: dict[str, Any] = {"frames": None, "positions": None, "positions_unit": None}
    values |= {"data": np.zeros((1, 6, 16, 16)), "scan": np.zeros((1, 6, 2))} | changes
    fails(npz(**values), FormatError, *parts)


@pytest.mark.parametrize(
    ("changes", "error", "parts"),
    [
        ({DETECTOR + "data": None}, FormatError, ("without frames", "entry_1/data_1/data")),
        ({"entry_1/sample_1/geometry_1/translation": None}, FormatError, ("without sample translations",)),
        ({"entry_1/sample_1/geometry_1/translation": np.zeros(8)}, FormatError, ("translation has shape (8,)",)),
        ({"entry_1/sample_1/geometry_1/translation": np.zeros((7, 3))}, DatasetError, ("8 frames but 7 positions",)),
        ({DETECTOR + "data": np.zeros((8, 16))}, FormatError, ("(8, 16)", "(N, H, W)")),
        ({DETECTOR + "mask": np.zeros((8, 16, 16), np.uint32)}, FormatError, ("one mask (H, W)",)),
        ({DETECTOR + "mask": np.zeros((8, 8), np.uint32)}, DatasetError, ("mask has shape (8, 8)",)),
        ({DETECTOR + "basis_vectors": np.zeros((3, 2))}, FormatError, ("basis_vectors", "length above 0")),
        ({DETECTOR + "x_pixel_size": 172e-6}, FormatError, ("square pixels",)),
        ({SOURCE + "wavelength": None, SOURCE + "energy": 10_000.0}, FormatError, ("joules", "1.602e-15", "no X-rays")),
        ({SOURCE + "wavelength": None}, DatasetError, ("metres", "give energy_kev")),
        ({SOURCE + "wavelength": np.nan}, FormatError, ("one finite number",)),
        ({DETECTOR + "distance": np.array([1.0, 2.0])}, FormatError, ("one finite number",)),
    ],
)
def test_cxi_faults(cxi: Write, changes: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    fails(cxi(**changes), error, *parts)


def test_a_broken_external_link_names_the_lost_file(cxi: Write) -> None:
    path = cxi(**{DETECTOR + "data": h5py.ExternalLink("master_000001.h5", "/data")})
    fails(path, FormatError, "without frames", "master_000001.h5", "copy that file")


def test_a_group_where_a_number_belongs_is_told(cxi: Write) -> None:
    path = cxi(**{DETECTOR + "distance": None, DETECTOR + "distance/value": 1.0})
    fails(path, FormatError, "damaged CXI")


def test_frames_lost_after_opening_are_told(cxi: Write) -> None:
    path = cxi()
    with Hdf5Frames(path, "entry_1/data_1/data") as frames:
        frames.close()
        path.unlink()
        with pytest.raises(FormatError, match=r"scan\.cxi"):
            frames[0:1]


def test_a_dataset_that_is_not_there_is_told(cxi: Write) -> None:
    with pytest.raises(FormatError, match="has no dataset nowhere"):
        Hdf5Frames(cxi(), "nowhere")


def test_a_damaged_chunk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("data", (4, 16, 16), "u4", chunks=(1, 16, 16), compression="gzip")
        stored[:] = np.random.default_rng(0).integers(0, 9, stored.shape)
        offset = stored.id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))
    with Hdf5Frames(path, "data") as frames:
        assert frames[0:2].shape == (2, 16, 16)
        with pytest.raises(FormatError, match="frames 2 to 3 of data cannot be read"):
            frames[2:4]


def test_a_file_that_is_being_written_is_told(cxi: Write) -> None:
    path = cxi()
    code = f"import h5py, sys; f = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        fails(path, FormatError, "another process is writing", "wait until the scan has ended")
        writer.communicate(timeout=30)
    assert len(load_dataset(path)) == 8
