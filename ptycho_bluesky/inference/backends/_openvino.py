"""OpenVINO as a backend: single precision, bfloat16, and int8 after a calibration."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference.backends._export import check_deviation, exported, folder, key_of, needed
from ptycho_bluesky.inference.backends._protocol import Deviation, Images, Precision
from ptycho_bluesky.inference.backends._torch import reference

__all__ = ["CALIBRATION_FRAMES", "OpenVinoBackend"]

CALIBRATION_FRAMES = 200
"""Of these, or as many as there are, int8 takes the ranges of its numbers."""


class OpenVinoBackend:
    """A network in OpenVINO on the CPU: one stream for each thread that calls.

    Parameters
    ----------
    network:
        From one tensor to one or two, on the CPU in single precision.
    example:
        (B, ...) such as will come; the deviation is measured on it.
    precision:
        "f32", "bf16" or "int8".
    threads:
        That will call at once.
    calibration:
        (K, ...) measured input for int8; None where this network was calibrated before.

    Raises
    ------
    InferenceError
        When OpenVINO (or NNCF for int8) is not installed, frames for int8 are missing, or the result is not the
        network's.
    """

    name = "openvino-cpu"

    def __init__(
        self,
        network: nn.Module,
        example: Images,
        precision: Precision,
        threads: int = 1,
        calibration: Images | None = None,
    ) -> None:
        if precision == "f16":
            raise InferenceError("openvino computes in f32, bf16 or int8 on a CPU, asked was f16")
        self.precision: Precision = precision
        core = needed("openvino", "backend 'openvino'").Core()
        model = core.read_model(exported(network, example))
        if precision == "int8":
            model = core.read_model(_quantised(core, model, key_of(network, example), calibration))
        way = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
            "CACHE_DIR": str(folder() / "openvino"),
        }
        self._compiled = core.compile_model(model, "CPU", way)
        self._own = threading.local()
        deviation = Deviation.between(self(example), reference(network, example))
        self.deviation = check_deviation("openvino", precision, deviation)

    def __call__(self, batch: Images, /) -> tuple[Images, ...]:
        """Return the outputs (B, ...) float32."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        made = self._own.request.infer([np.ascontiguousarray(batch)], share_inputs=True)
        return tuple(made[k] for k in range(len(self._compiled.outputs)))


def _quantised(core: Any, model: Any, key: str, calibration: Images | None) -> Path:
    """Return the int8 network's file, calibrated now or before."""
    path = folder() / f"{key}-int8.xml"
    if path.is_file() and path.with_suffix(".bin").is_file():
        return path
    if calibration is None or not len(calibration):
        raise InferenceError(
            "int8 takes its ranges from measured frames, and there are none for this network yet: run 'ptycho-bluesky "
            "infer --backend openvino --precision int8' on a measurement once (the result is kept), or take bf16"
        )
    nncf = needed("nncf", "precision 'int8'")
    nncf.set_log_level(40)
    frames = np.ascontiguousarray(calibration[:CALIBRATION_FRAMES])
    data = nncf.Dataset([frames[k : k + 1] for k in range(len(frames))])
    made = nncf.quantize(model, data, subset_size=len(frames))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    needed("openvino", "int8").save_model(made, str(partial))
    for ending in (".bin", ".xml"):  # whoever sees the second finds the first
        partial.with_suffix(ending).replace(path.with_suffix(ending))
    return path
