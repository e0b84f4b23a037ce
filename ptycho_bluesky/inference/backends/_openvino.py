"""OpenVINO as a backend: single precision, bfloat16, and int8 after a calibration."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference.backends._export import check_deviation, exported, folder, key_of, needed, written
from ptycho_bluesky.inference.backends._protocol import Deviation, Images, Precision
from ptycho_bluesky.inference.backends._signal_stack import kept_signal_stack
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
        with kept_signal_stack():
            self._open(network, example, precision, threads, calibration)

    def _open(
        self, network: nn.Module, example: Images, precision: Precision, threads: int, calibration: Images | None
    ) -> None:
        core = needed("openvino", "backend 'openvino'").Core()
        model = core.read_model(exported(network, example))
        kept: _Calibration | None = None
        if precision == "int8":
            kept = _Calibration(key_of(network, example), calibration)
            model = core.read_model(kept.path if kept.holds else kept.quantise(model))
        way = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
            "CACHE_DIR": str(folder() / "openvino"),
        }
        self._compiled = core.compile_model(model, "CPU", way)
        self._own = threading.local()
        if kept is not None and kept.holds:
            self.deviation = kept.deviation
            return
        deviation = Deviation.between(self(example), reference(network, example))
        self.deviation = check_deviation("openvino", precision, deviation)
        if kept is not None:
            kept.keep(deviation)

    def __call__(self, batch: Images, /) -> tuple[Images, ...]:
        """Return the outputs (B, ...) float32."""
        with kept_signal_stack():
            if not hasattr(self._own, "request"):
                self._own.request = self._compiled.create_infer_request()
            made = self._own.request.infer([np.ascontiguousarray(batch)], share_inputs=True)
        return tuple(made[k] for k in range(len(self._compiled.outputs)))


class _Calibration:
    """An int8 network's file, and a note beside it of the frames that it was calibrated with and how far it is off.

    The note is written last: without one, the file does not count.
    """

    def __init__(self, key: str, frames: Images | None) -> None:
        self.path, self._frames = folder() / f"{key}-int8.xml", frames
        self._mark = None if frames is None else hashlib.sha256(frames.tobytes()).hexdigest()
        try:
            note: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text())
            self.deviation = Deviation(**note["deviation"])
            self.holds = self.path.is_file() and self._mark in (None, note["frames"])
            """Whether the file there is was calibrated with these frames or, where none are given, with any."""
        except (OSError, ValueError, KeyError, TypeError):
            self.holds = False

    def quantise(self, model: Any) -> Path:
        """Write the file."""
        if self._frames is None or not len(self._frames):
            raise InferenceError(
                "int8 takes its ranges from measured frames, and there are none for this network yet: run "
                "'ptycho-bluesky infer --backend openvino --precision int8' on a measurement once (the result is "
                "kept), or take bf16"
            )
        nncf = needed("nncf", "precision 'int8'")
        nncf.set_log_level(40)
        frames = np.ascontiguousarray(self._frames[:CALIBRATION_FRAMES])
        data = nncf.Dataset([frames[k : k + 1] for k in range(len(frames))])
        made = nncf.quantize(model, data, subset_size=len(frames))
        self.path.with_suffix(".json").unlink(missing_ok=True)
        partial = self.path.with_name(f".{os.getpid()}-{self.path.name}")
        needed("openvino", "int8").save_model(made, str(partial))
        for ending in (".bin", ".xml"):
            partial.with_suffix(ending).replace(self.path.with_suffix(ending))
        return self.path

    def keep(self, deviation: Deviation) -> None:
        """Write the note."""
        note = json.dumps({"frames": self._mark, "deviation": asdict(deviation)})
        written(self.path.with_suffix(".json"), lambda partial: partial.write_text(note))
