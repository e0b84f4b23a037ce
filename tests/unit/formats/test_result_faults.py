"""What is wrong with a result's file, or a .ptyd, is told in one line that names the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from ptycho_bluesky.errors import DatasetError, FormatError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats import identify, load_dataset, read_reconstruction, write_reconstruction
from tests.golden import truth

GOLDEN = Path(truth.__file__).parent
RESULTS = ("ptychodus_product.h5", "ptychodus_product.npz", "ptychodus_result.cxi", "ptypy.ptyr", "fold_slice_v5.mat")
RESULTS = (*RESULTS, "fold_slice_v73.mat")
Change = dict[str, Any]


def fails(read: Callable[[Path], Any], path: Path, *parts: str, error: type[Exception] = FormatError) -> None:
    with pytest.raises(error) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(path), *parts):
        assert part in text


def changed(tmp_path: Path, name: str, changes: Change) -> Path:
    """Copy a golden HDF5 file with changes: ``key@attribute`` is an attribute, None removes."""
    path = tmp_path / name
    shutil.copy(GOLDEN / name, path)
    with h5py.File(path, "r+") as file:
        for key, value in changes.items():
            item, _, attribute = key.partition("@")
            holder, last = (file[item or "/"].attrs, attribute) if attribute else (file, item)
            if last in holder:
                del holder[last]
            if value is not None:
                holder[last] = value
    return path


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("keep", [0.05, 0.6, 0.97])
def test_a_truncated_result(tmp_path: Path, name: str, keep: float) -> None:
    whole = (GOLDEN / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(keep * len(whole))])
    fails(read_reconstruction, tmp_path / name)


@pytest.mark.parametrize("name", RESULTS)
def test_a_bit_error_never_ends_in_a_traceback(tmp_path: Path, name: str) -> None:
    whole = (GOLDEN / name).read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 15):
        broken = bytearray(whole)
        broken[place : place + 8] = b"\xff" * 8
        (tmp_path / name).write_bytes(bytes(broken))
        try:
            assert isinstance(read_reconstruction(tmp_path / name), Reconstruction)
        except FormatError as error:
            assert str(tmp_path / name) in str(error)


def test_no_file_a_folder_nothing(tmp_path: Path) -> None:
    fails(read_reconstruction, tmp_path / "no.ptyr", "does not exist")
    fails(read_reconstruction, tmp_path, "is a folder")
    (tmp_path / "a.ptyr").touch()
    fails(read_reconstruction, tmp_path / "a.ptyr", "0 bytes")
    (tmp_path / "a.ptyr").write_text("hello")
    fails(read_reconstruction, tmp_path / "a.ptyr", "of no known format", "ptychodus")


def test_missing_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    shutil.copy(GOLDEN / "ptypy.ptyr", tmp_path / "a.ptyr")
    monkeypatch.setattr(Path, "open", refuse)
    fails(read_reconstruction, tmp_path / "a.ptyr", "permission denied", "chmod")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"@photon_energy_eV": None}, ("lacks probe_energy_eV",)),
        ({"@photon_energy_eV": np.nan}, ("photon energy is nan", "allowed are eV")),
        ({"@photon_energy_eV": 8.8}, ("photon energy is 8.8", "is it 8.8 keV? Multiply it by 1000")),
        ({"probe_position_x_m": np.zeros(5)}, ("5 x but 6 y positions",)),
        ({"probe_position_x_m": np.full(6, np.nan)}, ("positions have values that are not finite",)),
        ({"object": np.ones((1, 30, 33))}, ("lacks object_pixel_height_m",)),
        ({"object@pixel_width_m": 1e-9}, ("object pixels", "squares")),
        ({"opr_weights": np.ones((6, 3))}, ("OPR weights have shape (6, 3)", "(6, 2)")),
        ({"object@center_x_m": np.nan}, ("origin", "finite")),
        ({"probe_position_y_m": "here"}, ("damaged",)),
    ],
)
def test_a_product(tmp_path: Path, changes: Change, parts: tuple[str, ...]) -> None:
    fails(read_reconstruction, changed(tmp_path, "ptychodus_product.h5", changes), *parts)


def test_what_a_peer_does_not_know_is_0(tmp_path: Path) -> None:
    path = changed(tmp_path, "ptychodus_product.h5", {"@photon_energy_eV": 0.0, "@detector_object_distance_m": 0.0})
    assert "geometry" not in read_reconstruction(path).provenance


def test_several_faults_come_in_one_text(tmp_path: Path) -> None:
    obj = np.ones((1, 8, 8), np.float32)
    side = {"object@pixel_width_m": 1e-8, "object@pixel_height_m": 1e-8, "object@center_x_m": 0, "object@center_y_m": 0}
    changes = {"object": obj, **side, "probe_position_x_m": np.full(6, np.inf)}
    path = changed(tmp_path, "ptychodus_product.h5", changes)
    fails(read_reconstruction, path, "2 faults", "object is float32", "positions have values")


def test_an_object_smaller_than_the_probe(tmp_path: Path) -> None:
    path = changed(tmp_path, "ptypy.ptyr", {"content/obj/SscanG00/data": np.ones((1, 8, 8), np.complex64)})
    fails(read_reconstruction, path, "object is (8, 8) but probe (16, 16)")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"content/positions": None}, ("no positions", "record_positions")),
        ({"content/obj/SscanG00": None}, ("without obj",)),
        ({"content/probe": None}, ("without probe",)),
        ({"content/obj/SscanG00/data": None}, ("damaged",)),
        ({"content/obj/SscanG00/_psize": np.array([1e-8, 2e-8])}, ("_psize", "two equal numbers")),
        ({"content/obj/SscanG00/_psize": np.array([np.nan, 1e-8])}, ("_psize", "two finite numbers")),
        (
            {"content/obj/SscanG00/_origin": None, "content/obj/SscanG00/_center": None},
            ("neither _origin nor _center",),
        ),
        ({"content/pars/scans/scan/data/energy": np.nan}, ("energy", "one finite number")),
    ],
)
def test_a_ptyr(tmp_path: Path, changes: Change, parts: tuple[str, ...]) -> None:
    fails(read_reconstruction, changed(tmp_path, "ptypy.ptyr", changes), *parts)


def test_a_ptyr_without_origin_is_placed_by_its_center(tmp_path: Path) -> None:
    rec = read_reconstruction(changed(tmp_path, "ptypy.ptyr", {"content/obj/SscanG00/_origin": None}))
    np.testing.assert_allclose(rec.origin, truth.ORIGIN)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"entry_1/image_1/data": None, "entry_1/image_1": None}, ("without entry_1/image_1/data", "probe")),
        ({"entry_1/sample_1/geometry_1/translation": None}, ("without translations",)),
        ({"entry_1/sample_1/geometry_1/translation": np.zeros(6)}, ("translation has shape (6,)",)),
        ({"entry_1/ptychodus": None, "entry_1/image_2/image_size": None}, ("pixel size is not known",)),
        ({"entry_1/ptychodus": None, "entry_1/image_2/image_size": np.zeros(3)}, ("squares",)),
        ({"entry_1/instrument_1/source_1/energy": 8000.0}, ("joules",)),
    ],
)
def test_a_cxi_result(tmp_path: Path, changes: Change, parts: tuple[str, ...]) -> None:
    fails(read_reconstruction, changed(tmp_path, "ptychodus_result.cxi", changes), *parts)


def test_a_cxi_result_of_no_one_in_particular(tmp_path: Path) -> None:
    rec = read_reconstruction(changed(tmp_path, "ptychodus_result.cxi", {"entry_1/ptychodus": None}))
    assert rec.pixel_size_m == pytest.approx(truth.PIXEL)
    assert rec.opr_weights is None


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"p": None}, ("no result of fold_slice", "lacks p")),
        ({"p": {"lambda": 1e-10}}, ("lacks p.dx_spec",)),
        ({"p": {"dx_spec": np.array([1e-8, 2e-8])}}, ("p.dx_spec", "two equal numbers")),
        ({"p": {"dx_spec": np.array([1e-8, 1e-8]), "lambda": np.nan}}, ("p.lambda", "one finite number")),
        ({"outputs": {"probe_positions": np.zeros((6, 3))}}, ("(6, 3)", "(N, 2): x, y")),
        ({"outputs": {"fourier_error_out": np.zeros(3)}}, ("lacks outputs.probe_positions",)),
        ({"object": np.ones((30, 33))}, ("object is float64", "complex")),
    ],
)
def test_a_mat(tmp_path: Path, changes: Change, parts: tuple[str, ...]) -> None:
    values: Change = {
        "object": truth.OBJECT[0],
        "probe": truth.COHERENT[0].transpose(1, 2, 0),
        "p": {"dx_spec": np.array([1e-8, 1e-8])},
        "outputs": {"probe_positions": np.zeros((6, 2))},
    }
    values |= changes
    savemat(tmp_path / "a.mat", {key: value for key, value in values.items() if value is not None})
    fails(read_reconstruction, tmp_path / "a.mat", *parts)


@pytest.mark.parametrize(
    ("changes", "error", "parts"),
    [
        ({"meta/energy": np.nan}, FormatError, ("energy", "one finite number")),
        ({"meta/energy": 8000.0}, FormatError, ("energy is 8000", "is it 8 keV, stored in eV? Divide it by 1000")),
        ({"meta/psize": np.array([1e-4, 2e-4])}, FormatError, ("psize", "square pixels")),
        ({"meta/psize": np.array(["a", "b"], "S1")}, FormatError, ("psize", "two finite numbers")),
        ({"meta/distance": None}, DatasetError, ("give energy_kev, distance_m",)),
        ({"chunks/0": None, "chunks/1": None}, FormatError, ("chunks is empty",)),
        ({"chunks/1/data": None}, FormatError, ("chunk 1 lacks data",)),
        (
            {"chunks/1/positions": np.zeros((3, 2))},
            FormatError,
            ("chunk 1 has 2 frames but positions of shape (3, 2)",),
        ),
        ({"chunks/1/data": np.zeros((2, 8, 8))}, FormatError, ("chunks/1/data", "they must agree")),
        ({"chunks/1/weights": np.ones((2, 8, 8))}, FormatError, ("weights of shape (2, 8, 8)", "(16, 16)")),
        ({"chunks/1": h5py.ExternalLink("a.ptyd.part001", "/")}, FormatError, ("link to a.ptyd.part001", "copy")),
    ],
)
def test_a_ptyd(tmp_path: Path, changes: Change, error: type[Exception], parts: tuple[str, ...]) -> None:
    fails(load_dataset, changed(tmp_path, "ptypy.ptyd", changes), *parts, error=error)


def test_chunks_in_files_beside_are_followed(tmp_path: Path) -> None:
    path = changed(tmp_path, "ptypy.ptyd", {})
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "ptypy.ptyd.part001", "w") as part:
        for key in list(file["chunks/1"]):
            file.copy(f"chunks/1/{key}", part)
        del file["chunks/1"]
        file["chunks/1"] = h5py.ExternalLink("ptypy.ptyd.part001", "/")
    np.testing.assert_array_equal(np.asarray(load_dataset(path).frames), truth.FRAMES)


def test_weights_and_center_of_a_ptyd_that_cannot_be_kept_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = np.ones((2, 16, 16))
    weights[0, 5, 5] = 0
    path = changed(tmp_path, "ptypy.ptyd", {"chunks/1/weights": weights, "meta/center": np.array([8.0, 10.0])})
    dataset = load_dataset(path)
    assert dataset.mask is not None
    assert np.argwhere(dataset.mask).tolist() == [[3, 4], [5, 5], [12, 9]]
    assert "weights differ from frame to frame" in caplog.text
    assert "give beam_center_px=[8.0, 10.0]" in caplog.text


def test_one_weight_for_all_frames(tmp_path: Path) -> None:
    path = changed(tmp_path, "ptypy.ptyd", {"chunks/0/weights": None, "chunks/1/weights": None})
    assert load_dataset(path).mask is None
    path = changed(tmp_path, "ptypy.ptyd", {"info/weight2d": 1.0 - truth.MASK})
    np.testing.assert_array_equal(load_dataset(path).mask, truth.MASK)


def test_a_field_of_a_later_release_is_named(
    tmp_path: Path, reconstruction: Reconstruction, caplog: pytest.LogCaptureFixture
) -> None:
    write_reconstruction(tmp_path / "a.h5", reconstruction)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["entry/flux_capacity"] = np.ones(3)
    assert read_reconstruction(tmp_path / "a.h5").engine == reconstruction.engine
    assert "holds flux_capacity, which this release does not know" in caplog.text


def test_a_file_of_the_first_release_is_read(tmp_path: Path, reconstruction: Reconstruction) -> None:
    write_reconstruction(tmp_path / "a.h5", reconstruction)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["version"] = 1
    assert read_reconstruction(tmp_path / "a.h5").parameters == reconstruction.parameters


def test_identify_names_what_is_wanted(tmp_path: Path) -> None:
    fails(identify, tmp_path / "no", "a measurement or a reconstruction")


def test_a_first_weight_that_varies_is_read_exactly(tmp_path: Path) -> None:
    weights = np.column_stack([np.linspace(0.8, 1.2, 6), np.linspace(-0.5, 0.5, 6)])
    rec = read_reconstruction(changed(tmp_path, "ptychodus_product.h5", {"opr_weights": weights}))
    assert rec.opr_modes is not None
    assert rec.opr_weights is not None
    mine = rec.probe[0] + np.tensordot(rec.opr_weights, rec.opr_modes, axes=1)
    np.testing.assert_allclose(mine, np.tensordot(weights, truth.COHERENT[:, 0], axes=1), atol=1e-5)
