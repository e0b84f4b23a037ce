"""How well each of some frames would fit at each of some places: the error landscape that a lost frame is found by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.reconstruction._model import ComplexArray
from ptycho_bluesky.reconstruction.kernels import _passes as passes
from ptycho_bluesky.reconstruction.kernels import _strips as layout

__all__ = ["landscape"]


@layout.cached
def _errors(places: Any, amplitude: Any, tile: Any, probes: Any, optics: Any, room: Any, dark: Any) -> Any:
    errors, one = np.empty(places.shape[:2]), np.empty((1, 4), np.int64)
    for k in range(places.shape[0]):
        for t in range(places.shape[1]):
            one[0, 0], one[0, 1], one[0, 2], one[0, 3] = k, places[k, t, 0], places[k, t, 1], 0
            errors[k, t] = passes.evaluate(one, amplitude, tile, probes, optics, room, dark, 1.0)[0]
    return errors


def landscape(
    obj: ComplexArray,
    probe: ComplexArray,
    amplitude: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    transfer: npt.NDArray[np.complex64],
) -> npt.NDArray[np.float64]:
    """Return (n, T), ``sum | modulus - amplitude |`` of each frame with its corner at each of its places.

    Parameters
    ----------
    obj:
        (Y, X).
    probe:
        (M, H, W).
    amplitude:
        (n, H, W), zero frequency at the corner (far field).
    places:
        (n, T, 2) corners, whole pixels; those beyond the object are moved to its edge.
    transfer:
        (H, W) of the near field, (0, 0) in the far field.
    """
    size = probe.shape[-1]
    corners = np.clip(places, 0, np.array(obj.shape) - size)
    optics, room = layout.optics_for(size, transfer), layout.room_for(size, len(probe))
    tile, strips = layout.tile_of(obj), layout.strips_of(probe[None])
    dark = layout.met_of(np.zeros((size, size), np.float32), optics)
    found: npt.NDArray[np.float64] = _errors(corners, amplitude, tile, strips, optics, room, dark)
    return found
