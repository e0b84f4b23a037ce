"""Files of weights in the safetensors layout: plain numbers and one JSON header, nothing that could run.

Layout (safetensors 0.x): 8 bytes little-endian length of the header; the header, JSON, which gives each tensor's
``dtype``, ``shape`` and ``data_offsets`` and may hold strings under ``__metadata__``; the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError, InferenceError

__all__ = ["content_hash", "read_weights", "write_weights"]

Weights = dict[str, npt.NDArray[np.floating]]

DTYPES: dict[str, np.dtype[np.floating]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
FORMAT = "ptycho-bluesky-network"
VERSION = 1
HEADER_LIMIT = 2**24


def content_hash(weights: Mapping[str, npt.NDArray[np.floating]], architecture: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an architecture and its weights, 64 hexadecimal digits; file layout does not matter."""
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for name in sorted(weights):
        value = np.ascontiguousarray(weights[name])
        digest.update(json.dumps([name, value.dtype.str, list(value.shape)]).encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def write_weights(
    path: Path,
    weights: Mapping[str, npt.NDArray[np.floating]],
    architecture: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> str:
    """Write a model file, whole or not at all, and return its content hash.

    Parameters
    ----------
    path:
        To write; replaced where it exists.
    weights:
        Arrays by name, stored as float16.
    architecture:
        JSON values from which the network is rebuilt.
    notes:
        JSON values: how it was trained and how good it is.
    """
    stored = {name: np.ascontiguousarray(value, dtype=DTYPES["F16"]) for name, value in sorted(weights.items())}
    for name, value in stored.items():
        if not np.isfinite(value).all():
            raise InferenceError(
                f"weight {name!r} is not finite in float16; the training diverged: use a smaller learning rate"
            )
    digest = content_hash(stored, architecture)
    about = {"format": FORMAT, "version": VERSION, "architecture": architecture, "notes": notes, "content_hash": digest}
    header: dict[str, Any] = {"__metadata__": {k: json.dumps(v, sort_keys=True) for k, v in about.items()}}
    offset = 0
    for name, value in stored.items():
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for value in stored.values():
                file.write(value.tobytes())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return digest


def read_weights(path: Path) -> tuple[Weights, dict[str, Any], dict[str, Any], str]:
    """Return weights, architecture, notes and content hash of a model file.

    Raises
    ------
    FormatError
        When the file is not a model file of this package, of another version, cut short, or altered.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FormatError(f"model file {path} cannot be read: {error.strerror or error}") from error
    try:
        header, body = _split(raw)
        about = {k: json.loads(v) for k, v in header.pop("__metadata__").items()}
        if about["format"] != FORMAT:
            raise FormatError(f"{path} holds weights of {about['format']!r}; a model file says {FORMAT!r}")
        if about["version"] != VERSION:
            raise FormatError(
                f"model file {path} has version {about['version']!r}; this release reads version {VERSION}: "
                "train the model anew, or install the release that wrote it"
            )
        weights = {name: _tensor(entry, body) for name, entry in header.items()}
        architecture, notes, claimed = about["architecture"], about["notes"], about["content_hash"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{path} is not a model file ({type(error).__name__}: {error}); give one that 'train' wrote"
        ) from error
    if (digest := content_hash(weights, architecture)) != claimed:
        raise FormatError(
            f"model file {path} was altered or damaged: its content hash is {digest[:12]}, its header says "
            f"{str(claimed)[:12]}; copy it anew from where it was trained"
        )
    return weights, architecture, notes, digest


def _split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or not 0 < length <= min(HEADER_LIMIT, len(raw) - 8):
        raise ValueError("it is too short, or does not begin with the length of a header")
    header = json.loads(raw[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, raw[8 + length :]


def _tensor(entry: dict[str, Any], body: bytes) -> npt.NDArray[np.floating]:
    dtype, shape = DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
    start, stop = entry["data_offsets"]
    if (
        min(shape, default=1) < 0
        or not 0 <= start <= stop <= len(body)
        or stop - start != dtype.itemsize * np.prod(shape)
    ):
        raise ValueError(f"a tensor of shape {shape} at bytes {start} to {stop} does not fit {len(body)} bytes")
    return np.frombuffer(body[start:stop], dtype).reshape(shape)
