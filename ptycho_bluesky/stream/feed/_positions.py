"""Positions for a standing edge process: with the frames, or in a file, by number or by time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.stream.sources import ClockOffset, PositionJoin

__all__ = ["PositionTable"]

WITH_FRAMES = "frames"


@dataclass(frozen=True)
class PositionTable:
    """Where the frames of each series were taken."""

    yx: npt.NDArray[np.float64]
    """(N, 2) in the unit that the metadata say; empty where frames bring their positions along."""

    keys: npt.NDArray[np.float64]
    """(N,) numbers of the frames, or times in seconds by the stage's clock."""

    by_time: bool = False

    first_index: int = 0
    """Number of the frame that position 0 belongs to."""

    clock_offset_s: float | None = 0.0
    """Stage clock minus detector clock; None to estimate it."""

    @classmethod
    def read(cls, where: str, *, first_index: int = 0, clock_offset_s: float | None = 0.0) -> PositionTable:
        """Return the positions of a file, or none for ``"frames"``.

        Parameters
        ----------
        where:
            ``"frames"``: they come with the frames (a ring). Else a file: ``.npy`` (N, 2), rows then columns; ``.npz``
            with ``positions`` (N, 2) and, where they are not those of frames 0, 1, 2 ..., ``indices`` or ``times``
            (N,); ``.csv`` whose first line names the columns: ``y,x``, ``index,y,x`` or ``time,y,x``.
        first_index, clock_offset_s:
            See the fields.

        Raises
        ------
        FormatError
            When the file cannot be read, or holds something else.
        """
        if where == WITH_FRAMES:
            return cls(np.empty((0, 2)), np.empty(0), first_index=first_index)
        path = Path(where)
        try:
            yx, keys, by_time = (_csv if path.suffix == ".csv" else _numpy)(path)
        except (OSError, ValueError, KeyError) as error:
            raise FormatError(
                f"positions {where!r}: {error}; give 'frames', or an .npy, .npz or .csv file of them (see the help)"
            ) from error
        if yx.ndim != 2 or yx.shape[1:] != (2,) or keys.shape != yx.shape[:1] or not len(yx):
            raise FormatError(f"positions {where!r} have shape {yx.shape} for {keys.shape} keys; allowed is (N, 2)")
        if not (np.isfinite(yx).all() and np.isfinite(keys).all()):
            raise FormatError(f"positions {where!r} are not all finite")
        return cls(yx, keys, by_time, first_index, clock_offset_s if by_time else 0.0)

    def join(self) -> PositionJoin:
        """Return a join for one series of frames, with all the positions."""
        join = PositionJoin(
            "time" if self.by_time else "index",
            clock=ClockOffset(self.clock_offset_s),
            first_index=self.first_index,
            max_gap_s=float(np.diff(np.sort(self.keys)).max() * 1.5) if self.by_time and len(self.keys) > 1 else 0.1,
        )
        if self.by_time:
            join.position_samples(self.keys, self.yx)
        else:
            join.positions(self.keys, self.yx)
        return join

    @property
    def extents(self) -> list[list[float]] | None:
        """[[y least, y most], [x least, x most]]; None where they are not known beforehand."""
        if not len(self.yx):
            return None
        return [[float(axis.min()), float(axis.max())] for axis in self.yx.T]


Table = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], bool]


def _numpy(path: Path) -> Table:
    try:
        given = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:  # NumPy's own text advises to unpickle the file
        raise ValueError("it is no .npy or .npz file, or a damaged one") from error
    if isinstance(given, np.ndarray):
        yx = np.asarray(given, np.float64)
        return yx, np.arange(len(yx), dtype=np.float64), False
    with given:
        yx = np.asarray(given["positions"], np.float64)
        for name in ("times", "indices"):
            if name in given:
                return yx, np.asarray(given[name], np.float64), name == "times"
    return yx, np.arange(len(yx), dtype=np.float64), False


def _csv(path: Path) -> Table:
    with path.open() as file:
        names = [name.strip() for name in file.readline().lstrip("#").split(",")]
        rows = np.loadtxt(file, delimiter=",", ndmin=2)
    columns = dict(zip(names, rows.T, strict=True))
    yx = np.stack([columns["y"], columns["x"]], axis=1)
    if "time" in columns:
        return yx, columns["time"], True
    return yx, columns.get("index", np.arange(len(yx), dtype=np.float64)), False
