"""Every frame passes here before the network: checked, turned the house's way round, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychographyMetadata
from ptycho_bluesky.inference._binning import Binner, Places
from ptycho_bluesky.inference._fitting import Fitting

__all__ = ["FrameGate", "Refused"]

MAX_SATURATED = 0.01


class Refused(Exception):
    """A frame that must not reach the network; the text is the reason, the same for all frames of its kind."""


class FrameGate:
    """Checks and prepares the frames of one run.

    Parameters
    ----------
    metadata:
        The run's ``ptychography`` block.
    frame_shape:
        (H, W) as the detector delivers frames.

    Raises
    ------
    DatasetError
        When frames are not square, or the mask does not fit them.
    """

    def __init__(self, metadata: PtychographyMetadata, frame_shape: tuple[int, int]) -> None:
        self.metadata, self.frame_shape = metadata, frame_shape
        if frame_shape[0] != frame_shape[1] or frame_shape[0] < 8:
            raise DatasetError(
                f"frames are {frame_shape[0]} x {frame_shape[1]} pixels; live inference needs square ones of 8 x 8 or "
                "more: set a square region of interest on the detector"
            )
        self.frame_size = frame_shape[0]
        geometry = metadata.geometry
        self.pixel_size_m = None if geometry is None else geometry.pixel_size_m(self.frame_size)
        if geometry is None and metadata.position_unit != "px":
            raise DatasetError("; ".join(metadata.missing()))
        unit = 1.0 if metadata.position_unit == "px" else POSITION_UNITS_M[metadata.position_unit]
        self._pixels_per_unit = np.array(metadata.axis_signs) * unit / (self.pixel_size_m or 1.0)
        self._bad = self._mask()
        self._binner = Binner(np.zeros(frame_shape, bool) if self._bad is None else self._bad)
        self._places: dict[tuple[int, int], Places] = {}
        self.follow(None)
        self._roll = self._to_centre()
        self.mask = None if self._bad is None else self._turned(self._bad)
        """(H, W) bad pixels as prepared frames have them; None where all are good."""
        self.saturated_share = 0.0
        """Of the pixels of the frame that was prepared last."""

    def _mask(self) -> npt.NDArray[np.bool_] | None:
        if self.metadata.mask_uri is None:
            return None
        path = Path(unquote(urlparse(self.metadata.mask_uri).path))
        try:
            bad = np.asarray(np.load(path, allow_pickle=False), bool)
        except (OSError, ValueError) as error:
            raise DatasetError(f"mask_uri {self.metadata.mask_uri!r} cannot be read ({error}); give an .npy") from error
        if bad.shape != self.frame_shape or bad.all():
            raise DatasetError(
                f"the mask {path.name} has shape {bad.shape} and {bad.mean():.0%} bad pixels, frames are "
                f"{self.frame_shape}; it must have the shape that the detector delivers, True on bad pixels only"
            )
        return bad

    def _to_centre(self) -> tuple[int, int]:
        """By how much an oriented frame must be rolled to bring the zero frequency to [H // 2, W // 2]."""
        n, geometry = self.frame_size, self.metadata.geometry
        if geometry is not None and geometry.modality == "near-field":
            return 0, 0
        if self.metadata.zero_frequency == "corner":
            return n // 2, n // 2
        if geometry is None or geometry.beam_center_px is None:
            return 0, 0
        row, column = geometry.beam_center_px
        way = self.metadata.orientation
        if way.transpose:
            row, column = column, row
        row, column = n - 1 - row if way.flip_rows else row, n - 1 - column if way.flip_columns else column
        return n // 2 - round(row), n // 2 - round(column)

    def corner_px(self, y: float, x: float) -> tuple[float, float]:
        """Return the frame's patch corner in object pixels, from position 0.

        Raises
        ------
        Refused
            When the position is not finite.
        """
        row, column = float(y * self._pixels_per_unit[0]), float(x * self._pixels_per_unit[1])
        if not (np.isfinite(row) and np.isfinite(column)):
            raise Refused("position not finite")
        return row, column

    def follow(self, predictor: object) -> None:
        """Let :meth:`prepare` return frames as a predictor's network is given them, where it says how.

        Parameters
        ----------
        predictor:
            With ``fitting`` (:class:`Fitting`) and ``centre_shift``, as the package's own have; others are given frames
            of the detector's size.
        """
        fitting = getattr(predictor, "fitting", None)
        if isinstance(fitting, Fitting) and fitting.given == self.frame_size:
            self._fitting, self._followed = fitting, predictor
        else:
            self._fitting, self._followed = Fitting(self.frame_size, self.frame_size), None
        self._places.clear()

    def _where(self) -> Places:
        """Return where pixels go now: as the metadata say, and as the predictor has found the centre."""
        moved = (0, 0)
        if self._followed is not None and self._fitting.wanted != self._fitting.given:
            moved = getattr(self._followed, "centre_shift", moved)
        if moved not in self._places:
            self._places.clear()
            roll = self._roll[0] - moved[0], self._roll[1] - moved[1]
            self._places[moved] = self._fitting.places(roll, self.metadata.orientation)
        return self._places[moved]

    def prepare(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return (N, N) float32 counts, bad pixels 0, zero frequency in the centre.

        N is the detector's size, or that of the network whose predictor is followed.

        Raises
        ------
        Refused
            When the frame cannot be trusted.
        """
        if raw.shape != self.frame_shape:
            raise Refused("wrong shape")
        if raw.dtype.kind not in "uifb":
            raise Refused("not numbers")
        if not raw.dtype.isnative or raw.dtype == np.float16:  # as a file or a wire may have them
            raw = raw.astype(np.float32 if raw.dtype.kind == "f" else raw.dtype.newbyteorder("="))
        if raw.dtype.kind in "if":
            raw = self._checked(raw)
        top, limit = -1, self.metadata.saturation
        if raw.dtype.kind == "u" and raw.dtype.itemsize > 1:  # detectors mark gaps and dead pixels so
            top = int(np.iinfo(raw.dtype).max)
            top = top if limit is None or limit < top else -1
        frame, saturated, high = self._binner(raw, self._where(), top, np.inf if limit is None else limit)
        self.saturated_share = saturated / raw.size
        if self.saturated_share > MAX_SATURATED:
            raise Refused("saturated")
        if high == 0:
            raise Refused("all zero")
        return frame

    def _checked(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return numbers that may be negative or not finite, if they are neither where pixels are good."""
        if self._bad is not None:
            raw = np.where(self._bad, 0, raw)
        low, high = float(raw.min()), float(raw.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise Refused("not finite")
        if low < 0:
            raise Refused("negative")
        return raw

    def _turned(self, frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a frame or mask the house's way round, the zero frequency in the centre."""
        turned = self.metadata.orientation.apply(frame)
        return np.ascontiguousarray(np.roll(turned, self._roll, (0, 1)) if any(self._roll) else turned)
