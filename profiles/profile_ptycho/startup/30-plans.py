"""Short plans: this beamline's devices and metadata filled in, sizes in micrometres. The queue server offers them too."""

from typing import Any, Literal, Optional


def ptycho_map(
    height_um: float = 3.0,
    width_um: float = 3.0,
    step_um: float = 0.25,
    kind: Literal["fermat", "raster", "snake"] = "fermat",
    center_um: Optional[list[float]] = None,
    sample: str = "",
):
    """Measure a field of the sample in steps; its live image and its reconstruction follow by themselves.

    Parameters
    ----------
    height_um, width_um : float
        Field, micrometres (rows: down; columns: to the right).
    step_um : float
        Distance of neighbouring positions, micrometres.
    kind : str
        Of the path.
    center_um : list of float, optional
        Middle (row, column) of the field; the stage's zero where it is not given.
    sample : str
        Goes into the run's metadata.
    """
    size = {"height_m": height_um * 1e-6, "width_m": width_um * 1e-6, "step_m": step_um * 1e-6}
    center = [1e-6 * v for v in center_um or (0.0, 0.0)]
    pattern = {"name": kind, **size, "center_m": center}
    md: dict[str, Any] = {"sample": sample} if sample else {}
    return (yield from ptycho_scan([detector], stage.y, stage.x, pattern, metadata=metadata, md=md))
