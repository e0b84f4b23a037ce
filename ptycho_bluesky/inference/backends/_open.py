"""From options to a backend."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ptycho_bluesky.inference.backends._onnxruntime import OnnxRuntimeBackend
from ptycho_bluesky.inference.backends._openvino import OpenVinoBackend
from ptycho_bluesky.inference.backends._protocol import Backend, BackendOptions, Images, Precision
from ptycho_bluesky.inference.backends._torch import TorchBackend

__all__ = ["open_backend"]

logger = logging.getLogger(__name__)


def open_backend(
    network: nn.Module, example: Images, options: BackendOptions, calibration: Images | None = None
) -> Backend:
    """Return a network in a runtime, its output compared with torch's.

    Parameters
    ----------
    network:
        From one float32 tensor (B, ...) to one or two, on the CPU, ready to infer.
    example:
        (B, ...) such as will come.
    options:
        Which runtime; its name must not be "auto" (see :func:`choose`).
    calibration:
        (K, ...) measured input, for int8.

    Raises
    ------
    InferenceError
        When the runtime is not installed, has not what is asked for, or its output is not the network's.
    """
    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    if options.name == "openvino":
        made: Backend = OpenVinoBackend(network, example, _precision(options, "bf16"), options.threads, calibration)
    elif options.name == "onnxruntime":
        made = OnnxRuntimeBackend(network, example, _precision(options, "f32"), options.device)
    else:
        precision = _precision(options, "bf16")
        made = TorchBackend(network, example, precision, "cuda" if cuda else "cpu", options.compile)
    logger.info("%s in %s differs from torch in single precision by %s", made.name, made.precision, made.deviation)
    return made


def _precision(options: BackendOptions, usual: Precision) -> Precision:
    return usual if options.precision == "auto" else options.precision
