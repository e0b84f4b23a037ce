from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from event_model import compose_run

from ptycho_bluesky.experiment import Geometry, PtychographyMetadata


def documents(
    count: int = 12,
    size: int = 16,
    *,
    metadata: PtychographyMetadata | None = None,
    frames: np.ndarray | None = None,
    exit_status: str | None = "success",
    **start: Any,
) -> list[tuple[str, dict[str, Any]]]:
    """Documents of a run with inline images, as the simulated beamline's; no stop where exit_status is None."""
    block = {} if metadata is None else {"ptychography": metadata.to_start()}
    run = compose_run(metadata={"plan_name": "test", **block, **start})
    size = size if frames is None else frames.shape[-1]
    rng = np.random.default_rng(1)
    images = rng.poisson(5, (count, size, size)).astype(np.uint16) if frames is None else frames
    number = {"dtype": "number", "shape": [], "source": "sim", "dtype_numpy": "<f8"}
    keys = {
        "stage_y": number,
        "stage_x": number,
        "detector_image": {
            "dtype": "array",
            "shape": list(images.shape[1:]),
            "source": "sim",
            "dtype_numpy": images.dtype.str,
        },
    }
    found: list[tuple[str, dict[str, Any]]] = [("start", run.start_doc)]
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    found.append(("descriptor", descriptor.descriptor_doc))
    for i, image in enumerate(images):
        data = {"stage_y": float(i), "stage_x": 2.0 * i, "detector_image": image}
        stamps = dict.fromkeys(data, 1000.0 + i)
        found.append(
            ("event", dict(descriptor.compose_event(data=data, timestamps=stamps, time=1000.0 + i, validate=False)))
        )
    if exit_status is not None:
        found.append(("stop", run.compose_stop(exit_status=exit_status)))
    return found


@pytest.fixture
def make_documents() -> Callable[..., list[tuple[str, dict[str, Any]]]]:
    return documents


@pytest.fixture
def block() -> PtychographyMetadata:
    return PtychographyMetadata(
        frames_key="detector_image",
        position_keys=("stage_y", "stage_x"),
        position_unit="um",
        geometry=Geometry(energy_kev=8.0, distance_m=2.0, detector_pixel_m=75e-6),
    )
