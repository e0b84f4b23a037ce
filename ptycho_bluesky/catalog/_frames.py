"""Frames of a run, read over Tiled slice by slice."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.formats import FrameView

__all__ = ["TiledFrames", "frames"]


class TiledFrames:
    """Diffraction patterns (N, H, W) of a Tiled array; nothing is read before a slice is asked for.

    Parameters
    ----------
    array:
        Tiled array client, (N, H, W), or (N, 1, H, W) as external files are until the run is validated.
    view:
        Orientation, zero frequency and crop to apply; None for frames as delivered.
    length:
        Frames to show of those that exist; None for all.
    per_event:
        Frames in each event, n: the array is (events, n, H, W), or (N, H, W) once the run is validated.

    Raises
    ------
    CatalogError
        When the array has another shape.
    """

    def __init__(
        self, array: Any, view: FrameView | None = None, length: int | None = None, per_event: int = 1
    ) -> None:
        shape = tuple(int(v) for v in array.shape)
        self._rows = shape[1] if len(shape) == 4 else 1
        if len(shape) not in (3, 4) or self._rows not in (1, per_event):
            allowed = "(N, H, W) or (N, 1, H, W)" if per_event == 1 else f"(events, {per_event}, H, W)"
            raise CatalogError(
                f"frames have shape {shape}; allowed is {allowed}: give the images' key, and frames_per_event"
            )
        self.array, self.per_event = array, per_event
        self.view = view or FrameView((shape[-2], shape[-1]))
        total = shape[0] * self._rows
        self._length = total if length is None else min(length, total)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W)."""
        return (self._length, *self.view.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one pixel."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: slice) -> npt.NDArray[Any]:
        """Read the frames of a slice as an array (n, H, W)."""
        start, stop, step = index.indices(self._length)
        if step < 1:
            raise CatalogError(f"frames[{start}:{stop}:{step}]: the step must be 1 or larger")
        if stop <= start:
            return np.empty((0, *self.view.shape), self.dtype)
        first = start // self._rows
        piece = np.asarray(self.array[first : -(-stop // self._rows)])
        flat = piece.reshape(-1, *piece.shape[-2:])[start - first * self._rows : stop - first * self._rows]
        return self.view.apply(flat)[::step]

    def __repr__(self) -> str:
        return f"<TiledFrames {self.shape} {self.dtype}>"


def stream_array(run: Any, key: str, stream: str = "primary") -> Any:
    """Return the Tiled client of one data key of a run.

    Raises
    ------
    CatalogError
        When the run has no such stream or key; the text names those that it has.
    """
    uid = str(run.metadata.get("start", {}).get("uid", "?"))[:8]
    try:
        events = run[stream]
    except KeyError:
        raise CatalogError(
            f"run {uid} has no stream {stream!r}; it has {sorted(run)}. It ended before its first event, "
            "or its documents have not arrived: see resend_backups"
        ) from None
    try:
        return events[key]
    except KeyError:
        raise CatalogError(
            f"run {uid} has no data key {key!r} in {stream!r}; it has {sorted(events)}. Correct frames_key and "
            "position_keys in the run's 'ptychography' block"
        ) from None


def frames(run: Any, key: str, stream: str = "primary") -> TiledFrames:
    """Return the frames (N, H, W) of a data key as they were delivered, read slice by slice.

    Both forms that Tiled shows, (N, 1, H, W) before and (N, H, W) after validation of a run with files, come out as
    (N, H, W).

    Parameters
    ----------
    run:
        Tiled client of a run.
    key:
        Data key of the images.
    stream:
        Name of the event stream.

    Raises
    ------
    CatalogError
        When there is no such stream or key, or the array is no stack of images.
    """
    return TiledFrames(stream_array(run, key, stream))
