"""ONNX Runtime as a backend: the CPU, CUDA, and TensorRT on a Jetson."""

from __future__ import annotations

import numpy as np
from torch import nn

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference.backends._export import check_deviation, exported, folder, needed
from ptycho_bluesky.inference.backends._protocol import Deviation, Images, Precision
from ptycho_bluesky.inference.backends._torch import reference

__all__ = ["OnnxRuntimeBackend"]

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxRuntimeBackend:
    """A network in ONNX Runtime.

    Parameters
    ----------
    network:
        From one tensor to one or two, on the CPU in single precision.
    example:
        (B, ...) such as will come; the deviation is measured on it.
    precision:
        "f32", or "f16" where TensorRT is.
    device:
        "cpu", "cuda" (TensorRT first, then CUDA), or "auto": the best there is.

    Raises
    ------
    InferenceError
        When ONNX Runtime is not installed or has no such device or precision, or the result is not the network's.
    """

    def __init__(self, network: nn.Module, example: Images, precision: Precision, device: str = "auto") -> None:
        runtime = needed("onnxruntime", "backend 'onnxruntime'")
        providers = providers_for(set(runtime.get_available_providers()), precision, device)
        self.name = f"onnxruntime-{providers[0][0].removesuffix('ExecutionProvider').lower()}"
        self.precision: Precision = precision
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # threads come with their own part of a batch
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(exported(network, example), options, providers=providers)
        deviation = Deviation.between(self(example), reference(network, example))
        self.deviation = check_deviation("onnxruntime", precision, deviation)

    def __call__(self, batch: Images, /) -> tuple[Images, ...]:
        """Return the outputs (B, ...) float32."""
        return tuple(self._session.run(None, {"frames": np.ascontiguousarray(batch)}))


def providers_for(available: set[str], precision: Precision, device: str) -> list[tuple[str, dict[str, object]]]:
    """Return the execution providers to ask for, the best first, with their options; the CPU stands in at the end.

    Raises
    ------
    InferenceError
        When none of those that are available can do it.
    """
    if precision not in ("f32", "f16"):
        raise InferenceError(f"onnxruntime computes in f32, with TensorRT in f16; asked was {precision}: take openvino")
    cache = str(folder() / "tensorrt")  # an engine takes a minute to build
    wanted: list[tuple[str, dict[str, object]]] = [
        (
            TENSORRT,
            {"trt_fp16_enable": precision == "f16", "trt_engine_cache_enable": True, "trt_engine_cache_path": cache},
        ),
        (CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}),
    ]
    found = [one for one in wanted if one[0] in available and device != "cpu"]
    if device == "cuda" and not found:
        raise InferenceError(
            f"this ONNX Runtime has {', '.join(sorted(available))}, none for CUDA: install onnxruntime-gpu (on a "
            "Jetson its build with TensorRT), or take device 'cpu'"
        )
    if precision == "f16" and (not found or found[0][0] != TENSORRT):
        raise InferenceError(
            f"onnxruntime computes in f16 with TensorRT alone, and has {', '.join(sorted(available))}: take f32"
        )
    return [*found, (CPU, {})]
