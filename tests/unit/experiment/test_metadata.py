from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import (
    BeamInfo,
    Geometry,
    Orientation,
    PatternInfo,
    ProbeInfo,
    PtychographyMetadata,
    SourceInfo,
)

GEOMETRY = Geometry(energy_kev=9, distance_m=2, detector_pixel_m=75e-6, beam_center_px=(64.0, 63.5))
MINIMUM: dict[str, Any] = {"frames_key": "detector_image", "position_keys": ("stage_y", "stage_x")}
FULL = PtychographyMetadata(
    **MINIMUM,
    position_unit="nm",
    axis_signs=(-1, 1),
    orientation=Orientation(transpose=True),
    zero_frequency="corner",
    geometry=GEOMETRY,
    mask_uri="file:///masks/eiger.npy",
    saturation=65535,
    rotation_deg=-30.5,
    exposure_s=0.01,
    probe=ProbeInfo(kind="zone-plate", diameter_m=180e-6, outermost_zone_m=30e-9, defocus_m=-2e-4, modes=2),
    probe_diameter_m=1e-6,
    pattern=PatternInfo(name="fermat", parameters={"step_m": 1e-7}, num_points=500, overlap=0.7),
    campaign={"id": "tomo", "view": 3},
)


@pytest.mark.parametrize("block", [FULL, PtychographyMetadata(**MINIMUM, geometry=GEOMETRY)])
def test_start_document_and_back(block: PtychographyMetadata) -> None:
    start = {"uid": "0123456789", "ptychography": json.loads(json.dumps(block.to_start()))}
    assert PtychographyMetadata.from_start(start) == block


def test_every_fault_is_told_with_key_value_and_run() -> None:
    block = {**FULL.to_start(), "position_unit": "inch", "energy": 9, "geometry": {"energy_kev": -1}}
    with pytest.raises(DatasetError) as caught:
        PtychographyMetadata.from_start({"uid": "abcdefghijk", "ptychography": block})
    text = str(caught.value)
    for part in (
        "'ptychography' block of run abcdefgh (5 faults)",
        "position_unit: ",
        "(given 'inch')",
        "energy: Extra inputs are not permitted (given 9)",
        "geometry.energy_kev: ",
        "geometry.distance_m: Field required",
        "geometry.detector_pixel_m: Field required",
    ):
        assert part in text


def test_a_run_without_the_block_is_told_what_to_do() -> None:
    with pytest.raises(DatasetError, match=r"run abcdefgh has no 'ptychography' block.*validate abcdefgh --amend"):
        PtychographyMetadata.from_start({"uid": "abcdefghijk", "plan_name": "scan"})


@pytest.mark.parametrize("block", [None, "text", 3, []])
def test_a_block_that_is_none_is_refused(block: object) -> None:
    with pytest.raises(DatasetError, match="'ptychography' block of run"):
        PtychographyMetadata.from_start({"uid": "a", "ptychography": block})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": 3}, "version"),
        ({"axis_signs": (0, 1)}, "axis_signs"),
        ({"exposure_s": 0}, "exposure_s"),
        ({"position_keys": ("x",)}, "position_keys"),
        ({"orientation": {"rotate": 1}}, "orientation.rotate"),
        ({"probe": {"kind": "lens"}}, "probe.kind"),
        ({"probe": {"kind": "disc", "modes": 0}}, "probe.modes"),
        ({"pattern": {"name": "x", "num_points": 0}}, "num_points"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        PtychographyMetadata.model_validate(MINIMUM | changes)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({}, ["geometry is missing"]),
        ({"position_unit": "px"}, []),
        ({"geometry": GEOMETRY}, []),
        ({"geometry": GEOMETRY, "position_unit": "px"}, ["position_unit is 'px' although"]),
        ({"geometry": GEOMETRY, "probe": ProbeInfo(kind="file")}, ["probe.uri is missing"]),
        ({"position_unit": "px", "probe": ProbeInfo(kind="disc", diameter_m=1e-6)}, ["needs a geometry"]),
        ({"probe": ProbeInfo(kind="disc", diameter_m=1e-6)}, ["geometry is missing", "needs a geometry"]),
    ],
)
def test_what_is_missing_is_said_in_plain_words(changes: dict[str, Any], texts: list[str]) -> None:
    missing = PtychographyMetadata(**(MINIMUM | changes)).missing()
    assert len(missing) == len(texts)
    for text, part in zip(missing, texts, strict=True):
        assert part in text


def test_the_first_layout_is_still_read() -> None:
    old = {"version": 1, **MINIMUM, "geometry": GEOMETRY.model_dump(mode="json"), "campaign": {"view": 3}}
    block = PtychographyMetadata.from_start({"uid": "a", "ptychography": old})
    assert block.version == 1 and block.frames_stream == "primary" and block.continues is None


def test_what_would_be_good_to_know() -> None:
    bare = PtychographyMetadata(**MINIMUM, geometry=GEOMETRY).unknown()
    assert [text.split(":")[0] for text in bare][:4] == ["probe", "probe_diameter_m", "exposure_s", "mask_uri"]
    assert [text.split(":")[0] for text in FULL.unknown()] == [
        "position_source", "beam.flux_photons_s", "beam.energy_spread", "source.name", "detector_name",
    ]  # fmt: skip
    known = FULL.model_copy(
        update={
            "position_source": "encoder",
            "beam": BeamInfo(flux_photons_s=1e9, energy_spread=1e-4),
            "source": SourceInfo(name="a ring"),
            "detector_name": "a detector",
        }
    )
    assert known.unknown() == []
    pixels = PtychographyMetadata(**MINIMUM, position_unit="px").unknown()
    assert "geometry: without it the object has no lengths" in pixels and not any("beam_center" in t for t in pixels)
