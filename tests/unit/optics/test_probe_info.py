from pathlib import Path

import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError, FormatError
from ptycho_bluesky.experiment import Geometry, ProbeInfo
from ptycho_bluesky.optics import disc_probe, kb_probe, probe_diameter_m, probe_from_info, zone_plate_probe

FAR = Geometry(energy_kev=10, distance_m=2, detector_pixel_m=75e-6)
CONE = Geometry(
    energy_kev=12.66, distance_m=1.12, detector_pixel_m=55e-6, modality="near-field", focus_to_sample_m=3.65e-3
)
PIXEL_M = FAR.pixel_size_m(128)


def test_zone_plate() -> None:
    info = ProbeInfo(kind="zone-plate", diameter_m=180e-6, outermost_zone_m=60e-9, central_stop_m=70e-6, defocus_m=3e-4)
    lengths = info.model_dump(include={"diameter_m", "outermost_zone_m", "central_stop_m", "defocus_m"})
    expected = zone_plate_probe(128, PIXEL_M, FAR.wavelength_m, **lengths)
    np.testing.assert_array_equal(probe_from_info(info, FAR, 128), expected[None])


def test_kb_mirrors_with_modes() -> None:
    info = ProbeInfo(
        kind="kirkpatrick-baez", diameter_m=3e-4, focal_length_m=0.2, defocus_m=2e-4, modes=3, coherent_fraction=0.7
    )
    probe = probe_from_info(info, FAR, 128)
    expected = kb_probe(128, PIXEL_M, FAR.wavelength_m, aperture_m=3e-4, focal_length_m=0.2, defocus_m=2e-4)
    np.testing.assert_allclose(probe[0], np.sqrt(0.7) * expected, atol=1e-6)
    assert probe.shape == (3, 128, 128) and (np.abs(probe) ** 2).sum() == pytest.approx(1, rel=1e-4)


def test_disc() -> None:
    probe = probe_from_info(ProbeInfo(kind="disc", diameter_m=1e-6), FAR, 128)
    np.testing.assert_array_equal(probe[0], disc_probe(128, PIXEL_M, diameter_m=1e-6))


def test_in_a_cone_beam_the_zone_plate_throws_its_own_image() -> None:
    info = ProbeInfo(kind="zone-plate", diameter_m=100e-6, outermost_zone_m=50e-9, central_stop_m=40e-6)
    probe = probe_from_info(info, CONE, 128)[0]
    pixel = CONE.pixel_size_m(128)
    cone = CONE.wavelength_m * 3.65e-3 / 50e-9
    intensity, r = np.abs(probe) ** 2, np.hypot(*(np.indices(probe.shape) - 64)) * pixel
    assert probe_diameter_m(probe, pixel) == pytest.approx(0.95 * cone, rel=0.05)
    bright = intensity[(r > 0.25 * cone) & (r < 0.45 * cone)].mean()
    assert intensity[r < 0.15 * cone].mean() < 0.04 * bright
    assert intensity[r > 0.55 * cone].mean() < 0.04 * bright
    # The spherical phase is gone: from pixel to pixel the phase hardly changes.
    lit = (r[:, :-1] > 0.25 * cone) & (r[:, :-1] < 0.45 * cone)
    assert np.abs(np.angle(probe[:, 1:] * probe[:, :-1].conj()))[lit].mean() < 0.1
    assert info.defocus_m == 0
    np.testing.assert_array_equal(probe_from_info(info.model_copy(update={"defocus_m": 3.65e-3}), CONE, 128)[0], probe)


def test_a_parallel_near_field_takes_the_defocused_probe() -> None:
    near = CONE.model_copy(update={"focus_to_sample_m": None, "detector_pixel_m": 4e-8, "distance_m": 1e-3})
    info = ProbeInfo(kind="zone-plate", diameter_m=100e-6, outermost_zone_m=50e-9, defocus_m=1e-3)
    lengths = info.model_dump(include={"diameter_m", "outermost_zone_m", "defocus_m"})
    expected = zone_plate_probe(128, 4e-8, near.wavelength_m, **lengths)
    np.testing.assert_array_equal(probe_from_info(info, near, 128)[0], expected)


def file_info(path: Path) -> ProbeInfo:
    return ProbeInfo(kind="file", uri=path.as_uri())


def test_a_file_is_normalised_and_its_strongest_mode_comes_first(tmp_path: Path) -> None:
    weak, strong = disc_probe(32, 1.0, diameter_m=9), 4 * disc_probe(32, 1.0, diameter_m=20)
    path = tmp_path / "a probe.npz"
    np.savez(path, probe=np.stack([weak, strong]).astype(np.complex128), other=1)
    probe = probe_from_info(file_info(path), None, 32)
    assert probe.dtype == np.complex64
    np.testing.assert_allclose(probe, np.stack([strong, weak]) / np.sqrt(17), rtol=1e-5)
    np.save(tmp_path / "flat.npy", np.abs(weak))
    np.testing.assert_allclose(probe_from_info(file_info(tmp_path / "flat.npy"), FAR, 32)[0], weak, rtol=1e-5)


def test_faults_of_files_are_told(tmp_path: Path) -> None:
    good = disc_probe(32, 1.0, diameter_m=9)
    cases = {
        "missing.npy": (None, "cannot be read: No such file"),
        "text.npy": (b"hello", "is not an .npy or .npz of numbers"),
        "empty.npy": (b"", "is not an .npy or .npz of numbers"),
        "size.npy": (good[:16], r"shape \(16, 32\); frames of 32 pixels want"),
        "zero.npy": (0 * good, "sums to an intensity of 0.0"),
        "nan.npy": (np.nan * good, "sums to an intensity of nan"),
        "words.npy": (np.array(["a"]), "dtype <U1"),
        "object.npy": (np.array([{}]), "is not an .npy or .npz of numbers"),
    }
    for name, (content, match) in cases.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content)
        with pytest.raises(FormatError, match=match):
            probe_from_info(file_info(path), None, 32)
    np.savez(tmp_path / "key.npz", beam=good)
    with pytest.raises(FormatError, match=r"the keys \['beam'\]; a probe must stand under"):
        probe_from_info(file_info(tmp_path / "key.npz"), None, 32)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "key.npz").read_bytes()[:100])
    with pytest.raises(FormatError, match=r"is not an .npy or .npz"):
        probe_from_info(file_info(tmp_path / "cut.npz"), None, 32)
    with pytest.raises(FormatError, match="cannot be read"):
        probe_from_info(file_info(tmp_path), None, 32)


def test_faults_of_the_description_are_told() -> None:
    with pytest.raises(DatasetError, match=r"probe.uri is missing"):
        probe_from_info(ProbeInfo(kind="file"), None, 32)
    for uri in ("https://example.org/p.npy", "file://elsewhere/p.npy", "p.npy"):
        with pytest.raises(DatasetError, match="allowed is a local file"):
            probe_from_info(ProbeInfo(kind="file", uri=uri), None, 32)
    with pytest.raises(DatasetError, match=r"3 faults.*diameter_m is missing.*outermost_zone_m.*geometry is missing"):
        probe_from_info(ProbeInfo(kind="zone-plate"), None, 32)
    with pytest.raises(DatasetError, match="focal_length_m is missing"):
        probe_from_info(ProbeInfo(kind="kirkpatrick-baez", diameter_m=1e-4), FAR, 128)
    with pytest.raises(DatasetError, match="leave the former out, or make them agree"):
        probe_from_info(ProbeInfo(kind="zone-plate", diameter_m=1e-4, outermost_zone_m=5e-8, defocus_m=1e-3), CONE, 128)
    with pytest.raises(DatasetError, match="nothing left for the others"):
        probe_from_info(ProbeInfo(kind="disc", diameter_m=1e-6, modes=2), FAR, 128)
