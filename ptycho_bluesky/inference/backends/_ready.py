"""Networks made ready: which engine for which network, runtime and device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._ptychonn import PtychoNN
from ptycho_bluesky.inference._vit import ProbeViT, ProbeViTSizes
from ptycho_bluesky.inference.backends._choice import choose
from ptycho_bluesky.inference.backends._engines import PlainEngine, WholeEngine
from ptycho_bluesky.inference.backends._example import example_frames
from ptycho_bluesky.inference.backends._protocol import BackendOptions, Engine, Images

__all__ = ["plain_engine", "probe_engine"]

MEASURED = 16
"""Frames in the batch with which "auto" measures."""

EXACT = BackendOptions(name="torch", precision="f32", device="cpu")


def _options(backend: BackendOptions | str | None) -> BackendOptions:
    if backend is None or isinstance(backend, BackendOptions):
        return backend or EXACT
    try:
        return BackendOptions.model_validate({"name": backend})
    except ValidationError as error:
        raise InferenceError(
            f"there is no backend {backend!r}; there are auto, torch, openvino and onnxruntime, each alone or with a "
            "precision (openvino:bf16): f32, bf16, f16, int8"
        ) from error


def _picked(make: Callable[[BackendOptions], Engine], options: BackendOptions, key: str, frames: Images) -> Engine:
    if options.name != "auto":
        return make(options)
    return make(choose(make, key, frames[:MEASURED], options).options)


def probe_engine(
    network: ProbeViT,
    probe: npt.NDArray[np.complex64],
    good: npt.NDArray[np.bool_],
    backend: BackendOptions | str | None = None,
    key: str = "",
) -> Engine:
    """Return the engine of ProbeViT for one probe.

    Parameters
    ----------
    network:
        On the CPU, ready to infer.
    probe, good:
        (modes, N, N) of total intensity 1, and (N, N) True where a pixel can be trusted.
    backend:
        Options or the name of a runtime; None: the torch module as it is, on the CPU in single precision.
    key:
        Names the network, for what "auto" finds.

    Raises
    ------
    InferenceError
        When the runtime is not installed, or has not what is asked for.
    """
    options, example = _options(backend), example_frames(probe, good)

    def make(one: BackendOptions) -> Engine:
        cuda = one.name == "torch" and one.device != "cpu" and torch.cuda.is_available()
        if backend is None or cuda:
            return WholeEngine(network, probe, good, one, example)
        # these compile, and numba loads what other packages add to it, which takes a second
        from ptycho_bluesky.inference.backends._physics import can_do
        from ptycho_bluesky.inference.backends._probe_engine import ProbeEngine

        if not can_do(network.sizes.size):
            return WholeEngine(network, probe, good, one, example)
        return ProbeEngine(network, probe, good, one, example)

    return _picked(make, options, key, example)


def plain_engine(
    network: PtychoNN,
    good: npt.NDArray[np.bool_],
    probe: npt.NDArray[np.complex64] | None = None,
    backend: BackendOptions | str | None = None,
    key: str = "",
    calibration: Images | None = None,
) -> Engine:
    """Return the engine of a PtychoNN.

    Parameters
    ----------
    network:
        On the CPU, ready to infer.
    good:
        (N, N) True where a pixel can be trusted.
    probe:
        (modes, N, N) of total intensity 1, for misfits; None where it is not known.
    backend, key:
        As for :func:`probe_engine`.
    calibration:
        (K, N, N) measured frames, which int8 needs once.

    Raises
    ------
    InferenceError
        As for :func:`probe_engine`.
    """
    options, n = _options(backend), len(good)
    x = np.arange(n) - n // 2
    beam = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (0.1 * n) ** 2).astype(np.complex64)[None]
    example = calibration if calibration is not None else example_frames(beam if probe is None else probe, good)
    misfits = None
    if probe is not None and backend is not None:
        from ptycho_bluesky.inference.backends._physics import ProbePhysics, can_do  # as above

        misfits = ProbePhysics(ProbeViTSizes(), probe, good, 2).misfits if can_do(n) else None

    def make(one: BackendOptions) -> Engine:
        return PlainEngine(network, good, one, example, calibration, misfits)

    return _picked(make, options, key, example)
