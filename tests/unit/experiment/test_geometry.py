from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ptycho_bluesky.experiment import Geometry


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"energy_kev": 0}, "energy_kev"),
        ({"energy_kev": 12_000}, "energy_kev"),
        ({"distance_m": -1}, "distance_m"),
        ({"detector_pixel_m": 75}, "detector_pixel_m"),
        ({"modality": "fresnel"}, "modality"),
        ({"wavelength": 1e-10}, "wavelength"),
        ({"focus_to_sample_m": 1e-3}, "belongs to the near field"),
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused(changes: dict[str, object], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Geometry.model_validate({"energy_kev": 9.0, "distance_m": 2.0, "detector_pixel_m": 75e-6} | changes)


def test_an_angstrom_is_12_398_kev() -> None:
    geometry = Geometry(energy_kev=12.398419843320026, distance_m=1, detector_pixel_m=1e-4)
    assert geometry.wavelength_m == pytest.approx(1e-10, rel=1e-12)


def test_far_field_pixel() -> None:
    # 1 Angstrom over 2 m, 256 pixels of 75 um: 1e-10 * 2 / (256 * 75e-6) = 10.4167 nm.
    geometry = Geometry(energy_kev=12.398419843320026, distance_m=2, detector_pixel_m=75e-6)
    assert geometry.pixel_size_m(256) == pytest.approx(10.416667e-9, rel=1e-6)
    assert geometry.magnification == 1
    assert geometry.effective_distance_m == 2


def test_near_field_of_p25() -> None:
    geometry = Geometry(
        energy_kev=12.658, distance_m=1.12, detector_pixel_m=55e-6, modality="near-field", focus_to_sample_m=3.65e-3
    )
    assert geometry.magnification == pytest.approx(307.85, abs=0.005)
    assert geometry.pixel_size_m(100) == pytest.approx(178.66e-9, abs=0.005e-9)
    assert geometry.effective_distance_m == pytest.approx(3.6381e-3, abs=0.00005e-3)


def test_a_parallel_near_field_magnifies_nothing() -> None:
    geometry = Geometry(energy_kev=10, distance_m=0.5, detector_pixel_m=1e-6, modality="near-field")
    assert geometry.pixel_size_m(512) == 1e-6
    assert geometry.effective_distance_m == 0.5


@given(energy=st.floats(0.1, 100), distance=st.floats(0.01, 100), pixel=st.floats(1e-6, 1e-3), n=st.integers(8, 4096))
def test_the_patch_does_not_depend_on_the_number_of_pixels(
    energy: float, distance: float, pixel: float, n: int
) -> None:
    geometry = Geometry(energy_kev=energy, distance_m=distance, detector_pixel_m=pixel)
    assert n * geometry.pixel_size_m(n) == pytest.approx(geometry.wavelength_m * distance / pixel)


def test_json_round_trip() -> None:
    geometry = Geometry(energy_kev=9, distance_m=2, detector_pixel_m=75e-6, beam_center_px=(63.5, 64.25))
    assert Geometry.model_validate_json(geometry.model_dump_json()) == geometry
