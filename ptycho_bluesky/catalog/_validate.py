"""What a run lacks to be reconstructed, and a mapping to fill in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ptycho_bluesky.catalog._amendments import amendments_of
from ptycho_bluesky.catalog._dataset import block_with, dataset_with
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychographyMetadata

__all__ = ["RunCheck", "mapping_template", "validate_run"]

TOLD = ("frames_key", "position_keys", "position_unit", "axis_signs", "exposure_s", "geometry")
UNITS = {"µm": "um", "μm": "um", "micron": "um", "microns": "um", "micrometer": "um", "micrometre": "um"}


@dataclass(frozen=True)
class RunCheck:
    """What was found of one run."""

    uid: str
    needed: list[str] = field(default_factory=list)
    """Without these there is no dataset."""
    wished: list[str] = field(default_factory=list)
    """Without these there is one, but a reconstruction, an archive or a reader would like to know."""
    amendments: int = 0
    """That are stored beside the run."""
    frames: int = 0
    """In the dataset, 0 where there is none."""
    frame_shape: tuple[int, int] | None = None
    """(H, W) in the dataset."""

    @property
    def ok(self) -> bool:
        """Whether a dataset can be made of the run."""
        return not self.needed


def validate_run(run: Any, mapping: Any = None) -> RunCheck:
    """Return what a run lacks to be reconstructed, with the amendments that are stored, and a mapping not yet stored.

    Parameters
    ----------
    run:
        Tiled client of a run.
    mapping:
        As for :func:`dataset_from_run`.
    """
    uid, amendments = str(run.metadata["start"]["uid"]), amendments_of(run)
    number = len(amendments)
    try:
        block = block_with(run, amendments, mapping)
    except PtychoError as error:
        return RunCheck(uid, [str(error)], [], number)
    wished = block.unknown()
    if needed := block.missing():
        return RunCheck(uid, needed, wished, number)
    try:
        dataset = dataset_with(run, block, alone=mapping is not None)
    except PtychoError as error:
        return RunCheck(uid, [str(error)], wished, number)
    return RunCheck(uid, [], wished, number, len(dataset), dataset.frame_shape)


@dataclass(frozen=True)
class _Known:
    """A data or configuration key of the run."""

    key: str
    stream: str
    device: str | None
    about: Mapping[str, Any]

    @property
    def units(self) -> str:
        return str(self.about.get("units") or "")


def _known(run: Any) -> Iterator[_Known]:
    for stream in run:
        about = run[stream].metadata
        for key, value in about.get("data_keys", {}).items():
            yield _Known(key, stream, None, value)
        for device, configuration in about.get("configuration", {}).items():
            for key, value in configuration.get("data_keys", {}).items():
                yield _Known(key, stream, device, value)


def mapping_template(run: Any) -> str:
    """Return a TOML mapping for a run, to be corrected: what it says of itself, or else what can be guessed.

    Parameters
    ----------
    run:
        Tiled client of a run.
    """
    start = run.metadata["start"]
    head = [
        f"# What the keys of run {start['uid']} ({start.get('plan_name', 'unknown plan')}) mean.",
        "# Correct it, then: ptycho-bluesky validate UID --amend THIS_FILE",
        "[ptychography]",
    ]
    try:
        told = _told(block_with(run, amendments_of(run), None))
    except PtychoError:  # a run of somebody's plan, which has no block, or one that cannot be read
        told = []
    return "\n".join(head + (told or _guessed(run, start))) + "\n"


def _told(block: PtychographyMetadata) -> list[str]:
    """Return what a run says: a guess in its place, once amended, would win over it."""
    lines = []
    for key, value in block.model_dump(mode="json", include=set(TOLD), exclude_none=True).items():
        inner = {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
        lines += [f"{name} = {json.dumps(v)}" for name, v in inner.items()]
    return [*lines, *(f"# NEEDED  {text}" for text in block.missing()), *(f"# {text}" for text in block.unknown())]


def _guessed(run: Any, start: Mapping[str, Any]) -> list[str]:
    """Return what keys, units and plan of a run let guess; the rest asks to be filled in."""
    known = list(_known(run))
    data = [k for k in known if k.device is None]
    images = [k for k in data if len(_sides(k.about)) >= 2]
    frames = images[0] if images else None
    keys = _axes(data, list(start.get("motors") or []), frames.stream if frames else "primary")
    unit = next((k.units for k in data if k.key == keys[0]), "")
    unit = UNITS.get(unit.lower(), unit.lower())
    lines = [
        f"frames_key = {_text(frames.key if frames else 'FILL IN')}"
        + _others("images", [k.key for k in images[1:]], "the data key of the diffraction patterns"),
        f"position_keys = [{_text(keys[0])}, {_text(keys[1])}]  # (row, column) = (y, x)",
        f"position_unit = {_text(unit if unit in POSITION_UNITS_M else 'um')}"
        + ("" if unit in POSITION_UNITS_M else "  # a guess: the run does not tell"),
        "axis_signs = [1, 1]  # -1 where a stage counts against the object's rows or columns",
    ]
    if frames is not None and frames.stream != "primary":
        lines.append(f"frames_stream = {_text(frames.stream)}")
    if frames is not None and len(_sides(frames.about)) > 2:
        lines.append(f"frames_per_event = {_sides(frames.about)[0]}")
    lines.append(_guess(known, ("exposure", "acquire_time", "count_time"), "exposure_s", {"ms": 1e-3}, "s", False))
    lines += [
        "",
        "[ptychography.geometry]",
        _guess(known, ("energy",), "energy_kev", {"ev": 1e-3, "mev": 1e3}, "keV", True),
        _guess(known, ("detector_distance", "det_dist", "camera_length"), "distance_m", {"mm": 1e-3}, "m", True),
        "detector_pixel_m = 75e-6  # m, FILL IN",
        "# beam_center_px = [128, 128]  # (row, column) of the direct beam, as the detector delivers",
    ]
    return lines


def _sides(about: Mapping[str, Any]) -> list[int]:
    shape = [int(n) for n in about.get("shape") or []]
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _axes(data: list[_Known], motors: list[str], stream: str) -> tuple[str, str]:
    """Return the keys of y and x: by their names where these tell, else slow and fast as the plan has them."""
    names = [k.key for k in data if k.stream == stream]
    keys = [key for motor in motors for key in (motor, f"{motor}_readback") if key in names][:2]
    if len(keys) < 2:
        return "FILL IN", "FILL IN"
    first, second = keys
    turned = first.lower().endswith("x") and second.lower().endswith("y")
    return (second, first) if turned else (first, second)


def _guess(
    known: list[_Known], names: tuple[str, ...], target: str, scales: Mapping[str, float], unit: str, needed: bool
) -> str:
    found = [k for k in known if any(name in k.key.lower() for name in names) and not _sides(k.about)]
    if not found:
        return f"{target} = 0.0  # {unit}, FILL IN" if needed else f"# {target} = 0.0  # {unit}"
    best = found[0]
    parts = [f"key = {_text(best.key)}"]
    if best.stream != "primary":
        parts.append(f"stream = {_text(best.stream)}")
    if best.device is not None:
        parts.append(f"device = {_text(best.device)}")
    if best.units.lower() in scales:
        parts.append(f"scale = {scales[best.units.lower()]:g}")
    told = f"  # in {best.units}" if best.units else "  # unit not told: check the scale"
    return f"{target} = {{ {', '.join(parts)} }}{told}"


def _others(what: str, keys: list[str], wanted: str) -> str:
    return f"  # other {what}: {', '.join(keys)}" if keys else f"  # {wanted}"


def _text(value: str) -> str:
    return json.dumps(value)
