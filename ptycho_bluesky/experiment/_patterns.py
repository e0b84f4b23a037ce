"""Scan patterns: where the probe goes, in metres, and what that means for overlap and dose."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import PlanError, report

__all__ = ["ScanPattern", "fermat", "from_positions", "jittered", "raster", "snake"]

FloatArray = npt.NDArray[np.float64]

GOLDEN_ANGLE_RAD = np.pi * (3 - np.sqrt(5))

MOST_POSITIONS = 10_000_000
"""A pattern of more is a wrong unit (micrometres where metres are asked for), and would fill the memory."""


@dataclass(frozen=True)
class ScanPattern:
    """An ordered list of scan positions; one object feeds plans, simulators and viewers.

    Attributes
    ----------
    name:
        Name of the family, e.g. ``"fermat"``.
    positions:
        (N, 2) float64, (row, column) = (y, x), metres, the place of the probe's centre on the sample.
    parameters:
        What the pattern was made from, in SI units; goes into the run's metadata.
    shape:
        (rows, columns) of a gridded pattern, else None.
    snaking:
        True where every second row runs backwards.
    """

    name: str
    positions: FloatArray = field(repr=False)
    parameters: dict[str, float | int | bool] = field(default_factory=dict)
    shape: tuple[int, int] | None = None
    snaking: bool = False

    def __post_init__(self) -> None:
        positions = np.array(self.positions, dtype=np.float64)
        faults = []
        if positions.ndim != 2 or positions.shape[-1] != 2 or not len(positions):
            faults.append(f"positions have shape {positions.shape}; allowed is (N, 2) with N of at least 1")
        elif not np.isfinite(positions).all():
            faults.append(f"{int((~np.isfinite(positions)).any(axis=1).sum())} positions are not finite")
        if faults:
            raise PlanError(report(f"scan pattern {self.name!r}", faults))
        positions.setflags(write=False)
        object.__setattr__(self, "positions", positions)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def extent_m(self) -> tuple[float, float]:
        """Height and width of the box around all positions, in metres."""
        height, width = np.ptp(self.positions, axis=0)
        return float(height), float(width)

    def moved(self, center_m: tuple[float, float]) -> ScanPattern:
        """Return the same pattern, moved by `center_m` (y, x)."""
        return ScanPattern(self.name, self.positions + np.asarray(center_m), self.parameters, self.shape, self.snaking)

    def step_m(self) -> float:
        """Return the median distance from a position to its nearest neighbour, in metres (0 for one position).

        Of patterns with more than 2,048 positions, that many are looked at, evenly spread over the scan.
        """
        if len(self) < 2:
            return 0.0
        looked_at = np.unique(np.linspace(0, len(self) - 1, min(len(self), 2048)).astype(int))
        nearest = np.empty(len(looked_at))
        for start in range(0, len(looked_at), 64):  # blocks: memory stays small, whatever the pattern's size
            chosen = looked_at[start : start + 64]
            offset = self.positions[chosen, None] - self.positions[None]
            distance = np.einsum("ijk,ijk->ij", offset, offset)
            distance[np.arange(len(chosen)), chosen] = np.inf
            nearest[start : start + 64] = np.sqrt(distance.min(axis=1))
        return float(np.median(nearest))

    def overlap(self, probe_diameter_m: float) -> float:
        """Return the linear overlap ``1 - step / diameter`` of neighbouring probes (0 where they do not touch).

        Bunk et al., Ultramicroscopy 108, 481 (2008): about 0.6 reconstructs best.
        """
        _positive(probe_diameter_m=probe_diameter_m)
        return max(0.0, 1.0 - self.step_m() / probe_diameter_m)

    def fluence_photons_m2(self, photons_per_frame: float, probe_diameter_m: float) -> float:
        """Return the photons per square metre that the scanned field receives, all frames together."""
        _positive(probe_diameter_m=probe_diameter_m)
        height, width = (side + probe_diameter_m for side in self.extent_m)
        return photons_per_frame * len(self) / (height * width)


def _positive(**values: float) -> None:
    faults = [
        f"{name} is {value}; it must be above 0 and finite"
        for name, value in values.items()
        if not 0 < value < float("inf")
    ]
    if faults:
        raise PlanError(report("scan pattern", faults))


def _few_enough(name: str, count: float) -> None:
    if not count <= MOST_POSITIONS:
        raise PlanError(
            f"{name} would have {count:.3g} positions; at most {MOST_POSITIONS:,} are allowed: give lengths in metres"
        )


def _grid(name: str, height_m: float, width_m: float, step_m: float, snaking: bool) -> ScanPattern:
    _positive(step_m=step_m)
    if not (0 <= height_m < float("inf") and 0 <= width_m < float("inf")):
        raise PlanError(f"{name}: height {height_m} m and width {width_m} m must be finite and not negative")
    _few_enough(name, (height_m / step_m + 1) * (width_m / step_m + 1))
    rows, columns = (int(np.floor(side / step_m + 1e-9)) + 1 for side in (height_m, width_m))
    y, x = ((np.arange(n) - (n - 1) / 2) * step_m for n in (rows, columns))
    grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    if snaking:
        grid[1::2] = grid[1::2, ::-1]
    parameters = {"height_m": height_m, "width_m": width_m, "step_m": step_m}
    return ScanPattern(name, grid.reshape(-1, 2), parameters, (rows, columns), snaking)


def raster(height_m: float, width_m: float, step_m: float) -> ScanPattern:
    """Return rows from left to right, top to bottom, centred on 0; all arguments in metres."""
    return _grid("raster", height_m, width_m, step_m, snaking=False)


def snake(height_m: float, width_m: float, step_m: float) -> ScanPattern:
    """Return a raster whose every second row runs backwards: no long way back; all arguments in metres."""
    return _grid("snake", height_m, width_m, step_m, snaking=True)


def fermat(height_m: float, width_m: float, step_m: float) -> ScanPattern:
    """Return a Fermat spiral, cut to a box centred on 0: even overlap and no raster grid artefact.

    Huang et al., Optics Express 22, 12634 (2014), eq. 4: ``r = c sqrt(n)``, ``theta = n * golden angle``. The factor
    ``c`` is chosen such that a position has ``step_m`` squared of area to itself, as in a raster of that step.

    Parameters
    ----------
    height_m, width_m:
        Sides of the box, metres.
    step_m:
        Side of the square that each position has to itself, metres.
    """
    _positive(height_m=height_m, width_m=width_m, step_m=step_m)
    c = step_m / np.sqrt(np.pi)
    _few_enough("fermat", (np.hypot(height_m, width_m) / 2 / c) ** 2)  # of the circle that is cut to the box
    count = int(np.ceil((np.hypot(height_m, width_m) / 2 / c) ** 2)) + 1
    n = np.arange(count)
    r, theta = c * np.sqrt(n), n * GOLDEN_ANGLE_RAD
    positions = np.stack([r * np.sin(theta), r * np.cos(theta)], axis=1)
    inside = (np.abs(positions) <= np.array([height_m, width_m]) / 2 * (1 + 1e-12)).all(axis=1)
    return ScanPattern(
        "fermat", positions[inside], {"height_m": height_m, "width_m": width_m, "step_m": step_m}, None, False
    )


def from_positions(positions_m: npt.ArrayLike, name: str = "list") -> ScanPattern:
    """Return a pattern over the given (N, 2) positions (row, column), in metres, in their order."""
    return ScanPattern(name, np.asarray(positions_m, dtype=np.float64))


def jittered(pattern: ScanPattern, sigma_m: float, seed: int = 0) -> ScanPattern:
    """Return `pattern` with normally distributed offsets of `sigma_m` metres, which break a raster's symmetry."""
    if not 0 <= sigma_m < float("inf"):
        raise PlanError(f"jitter is {sigma_m} m; it must be finite and not negative")
    offset = np.random.default_rng(seed).normal(0, sigma_m, pattern.positions.shape)
    parameters = {**pattern.parameters, "jitter_m": sigma_m, "jitter_seed": seed}
    return ScanPattern(pattern.name, pattern.positions + offset, parameters, pattern.shape, pattern.snaking)
