"""From what a run's metadata say of the probe to the probe itself."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import DatasetError, FormatError, report
from ptycho_bluesky.experiment import Geometry, ProbeInfo
from ptycho_bluesky.optics._disc import disc_probe
from ptycho_bluesky.optics._modes import coherent_modes
from ptycho_bluesky.optics._probes import kb_probe, zone_plate_probe

__all__ = ["probe_from_info"]

ComplexArray = npt.NDArray[np.complex64]


def probe_from_info(info: ProbeInfo, geometry: Geometry | None, frame_size: int) -> ComplexArray:
    """Return the probe that `info` describes, on the object's pixel grid.

    Lengths that `info` needs: zone plate: ``diameter_m``, ``outermost_zone_m``; KB mirrors: ``diameter_m`` (their
    opening), ``focal_length_m``; disc: ``diameter_m`` on the sample (no defocus); file: ``uri``. In a near field
    with a cone beam the probe of zone plate or KB mirrors is the one of the equivalent parallel beam: without the
    spherical phase, which magnification and effective distance stand for.

    Parameters
    ----------
    info:
        The ``probe`` entry of the metadata.
    geometry:
        Needed by every kind but ``"file"``.
    frame_size:
        Pixels along a side.

    Returns
    -------
    numpy.ndarray
        (modes, H, W) complex64, strongest first, ``sum |P|**2 = 1`` over all.

    Raises
    ------
    DatasetError
        When a length is missing or out of range, or the frame is too small for the probe.
    FormatError
        When the file cannot be read, or holds no probe of this frame size.
    """
    if info.kind == "file":
        return _from_file(info, frame_size)
    needed = {
        "zone-plate": ("diameter_m", "outermost_zone_m"),
        "kirkpatrick-baez": ("diameter_m", "focal_length_m"),
        "disc": ("diameter_m",),
    }[info.kind]
    faults = [f"probe.{name} is missing" for name in needed if getattr(info, name) is None]
    if geometry is None:
        faults.append("the geometry is missing (energy_kev, distance_m, detector_pixel_m)")
    elif geometry.focus_to_sample_m is not None and info.defocus_m not in (0.0, geometry.focus_to_sample_m):
        faults.append(
            f"probe.defocus_m is {info.defocus_m} but geometry.focus_to_sample_m is {geometry.focus_to_sample_m}; "
            "leave the former out, or make them agree"
        )
    if faults or geometry is None:
        raise DatasetError(report(f"probe of kind {info.kind!r}", faults))
    if info.kind == "disc":
        wave = disc_probe(frame_size, geometry.pixel_size_m(frame_size), diameter_m=info.diameter_m or 0.0)
        return coherent_modes(wave, info.modes, info.coherent_fraction, plane="sample")
    if geometry.focus_to_sample_m is None:
        wave = _focused(info, geometry, frame_size, geometry.pixel_size_m(frame_size), info.defocus_m)
        return coherent_modes(wave, info.modes, info.coherent_fraction)
    wave = _in_cone(info, geometry, frame_size, geometry.focus_to_sample_m)
    return coherent_modes(wave, info.modes, info.coherent_fraction, plane="sample")


def _focused(info: ProbeInfo, geometry: Geometry, frame_size: int, pixel_m: float, defocus_m: float) -> ComplexArray:
    if info.kind == "zone-plate":
        return zone_plate_probe(
            frame_size,
            pixel_m,
            geometry.wavelength_m,
            diameter_m=info.diameter_m or 0.0,
            outermost_zone_m=info.outermost_zone_m or 0.0,
            central_stop_m=info.central_stop_m,
            defocus_m=defocus_m,
        )
    return kb_probe(
        frame_size,
        pixel_m,
        geometry.wavelength_m,
        aperture_m=info.diameter_m or 0.0,
        focal_length_m=info.focal_length_m or 0.0,
        defocus_m=defocus_m,
    )


def _in_cone(info: ProbeInfo, geometry: Geometry, frame_size: int, z1: float) -> ComplexArray:
    """Propagate the focus by `z1` in one Fresnel step, whose outer spherical phase is the one to leave out."""
    focus_pixel = geometry.wavelength_m * z1 / (frame_size * geometry.pixel_size_m(frame_size))
    focus = _focused(info, geometry, frame_size, focus_pixel, 0.0)
    x = (np.arange(frame_size) - frame_size // 2) * focus_pixel
    chirp = np.exp(1j * np.pi * x**2 / (geometry.wavelength_m * z1))
    wave = scipy.fft.fft2(scipy.fft.ifftshift(focus * chirp[:, None] * chirp[None]), norm="ortho")
    return np.asarray(scipy.fft.fftshift(wave), dtype=np.complex64)


def _from_file(info: ProbeInfo, frame_size: int) -> ComplexArray:
    if info.uri is None:
        raise DatasetError("probe of kind 'file': probe.uri is missing; give file:///folder/probe.npy")
    parts = urlsplit(info.uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise DatasetError(f"probe.uri is {info.uri!r}; allowed is a local file, file:///folder/probe.npy or .npz")
    path = Path(unquote(parts.path))
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                if "probe" not in loaded:
                    raise FormatError(f"{path} has the keys {sorted(loaded)}; a probe must stand under the key 'probe'")
                loaded = loaded["probe"]
    except OSError as error:
        raise FormatError(f"the probe's file {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, BadZipFile) as error:
        raise FormatError(
            f"{path} is not an .npy or .npz of numbers ({error}); save the probe by numpy.save"
        ) from error
    if not np.issubdtype(loaded.dtype, np.number):
        raise FormatError(f"the probe in {path} has dtype {loaded.dtype}; allowed are real or complex numbers")
    probe = np.asarray(loaded, dtype=np.complex64)
    probe = probe[None] if probe.ndim == 2 else probe
    if probe.ndim != 3 or probe.shape[-2:] != (frame_size, frame_size):
        raise FormatError(
            f"the probe in {path} has shape {loaded.shape}; frames of {frame_size} pixels want (modes, {frame_size}, "
            f"{frame_size}): crop or pad it in reciprocal space, or crop the frames"
        )
    power = (np.abs(probe).astype(np.float64) ** 2).sum(axis=(1, 2))
    if not (np.isfinite(power).all() and power.sum() > 0):
        raise FormatError(f"the probe in {path} sums to an intensity of {power.sum()}; it must be finite and above 0")
    strongest_first = np.argsort(-power, kind="stable")
    return np.asarray(probe[strongest_first] / np.sqrt(power.sum()), dtype=np.complex64)
