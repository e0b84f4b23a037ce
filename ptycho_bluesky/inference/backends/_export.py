"""Networks for other runtimes: ONNX files below the settings' home, named by what is in them."""

from __future__ import annotations

import hashlib
import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference.backends._protocol import Deviation, Images

__all__ = ["check_deviation", "exported", "folder", "key_of", "needed", "written"]

OPSET = 17

BOUNDS = {"f32": 1e-3, "f16": 0.05, "bf16": 0.1, "int8": 0.3}
"""Rms difference to torch, as a share of the output's deviation, above which a runtime's network is refused."""


def needed(module: str, what: str) -> Any:
    """Import a runtime that is not everywhere.

    Raises
    ------
    InferenceError
        When it is not installed; says how to get it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their own affair
            return importlib.import_module(module)
    except ImportError as error:
        raise InferenceError(
            f"{what} needs {module}, which is not installed: install the extra 'edge' (pip install "
            "'ptycho-bluesky[edge]'), or take backend 'torch'"
        ) from error


def folder() -> Path:
    """Return where exported and compiled networks are kept."""
    return settings().home / "backends"


def key_of(network: nn.Module, example: Images) -> str:
    """Return the name of a network and its input's shape: weights, layers and exporter, 20 hexadecimal digits."""
    digest = hashlib.sha256(f"{network!r} {example.shape[1:]} {OPSET} {torch.__version__}".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file that no other process sees before it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def exported(network: nn.Module, example: Images) -> Path:
    """Return the ONNX file of a network, written now or before; of `example` (B, ...) the length B is left open."""
    path = folder() / f"{key_of(network, example)}.onnx"
    if path.is_file():
        return path
    needed("onnx", "the export of a network")
    made = torch.from_numpy(example[:1])
    with torch.inference_mode():
        count = 1 if isinstance(outputs := network(made), torch.Tensor) else sum(one is not None for one in outputs)
    names = [f"out{k}" for k in range(count)]

    def write(partial: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter that needs no further package is called legacy
            torch.onnx.export(
                network, (made,), str(partial), opset_version=OPSET, dynamo=False, input_names=["frames"],
                output_names=names, dynamic_axes={name: {0: "batch"} for name in ("frames", *names)},
            )  # fmt: skip

    return written(path, write)


def check_deviation(name: str, precision: str, deviation: Deviation) -> Deviation:
    """Return the deviation, or raise where a runtime's network is not the one it was made from.

    Raises
    ------
    InferenceError
        When the difference is above the bound of the precision.
    """
    if not deviation.share <= BOUNDS[precision]:
        raise InferenceError(
            f"{name} in {precision} differs from torch by {deviation}; allowed is {BOUNDS[precision]:.1%}: take "
            f"another precision or backend, and delete {folder()} if files there may be damaged"
        )
    return deviation
