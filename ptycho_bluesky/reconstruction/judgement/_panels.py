"""The panels of a report: each draws one thing into one pair of axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.reconstruction.judgement._verdict import Judgement, length_text, mode_powers

__all__ = ["Panel", "cropped", "draw_scale_bar", "panels_of", "scale_bar_m"]

Image = npt.NDArray[np.floating]

BLUE, ORANGE, GREY = "#2f7fc4", "#d1741d", "0.45"
"""Told apart by any eye, and in print without colours."""

MOST_ARROWS = 400


@dataclass(frozen=True)
class Panel:
    """One picture of a report."""

    title: str
    draw: Callable[[Any, Judgement], None]
    """Draws into matplotlib axes."""


def panels_of(judgement: Judgement) -> list[Panel]:
    """Return the panels for which there is something to show."""
    wanted: list[tuple[bool, str, Callable[[Any, Judgement], None]]] = [
        (True, "Phase (rad)", _phase),
        (True, "Amplitude", _amplitude),
        (judgement.phase_std is not None, "Phase uncertainty, 1 sigma (rad)", _uncertainty),
        (True, "Coverage and positions", _coverage),
        (True, "Scan path", _path),
        (True, "Probe modes, modulus", _probe),
        (judgement.patterns is not None, "Measured | modelled (log10 counts)", _frames),
        (judgement.patterns is not None and len(judgement.patterns.frequency) > 0, "Measured and modelled", _radial),
        (len(judgement.result.errors) > 0, "Error by epoch", _errors),
        (judgement.correlation is not None, "Fourier ring correlation", _correlation),
        (judgement.transfer is not None, "Phase retrieval transfer", _transfer),
        (_moved(judgement), "Positions, given to refined", _positions),
    ]
    return [Panel(title, draw) for there, title, draw in wanted if there]


def _moved(judgement: Judgement) -> bool:
    return judgement.moved is not None and bool(np.abs(judgement.moved).max() > 1e-3)


def cropped(image: Image) -> Image:
    """Return an image (Y, X) without the border where nothing is known (NaN)."""
    known = np.isfinite(image)
    if not known.any():
        return image
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def scale_bar_m(width_m: float) -> float:
    """Return a round length (1, 2 or 5 times a power of ten) of about a quarter of `width_m`."""
    target = width_m / 4
    power = 10.0 ** np.floor(np.log10(target))
    return float(power * max(f for f in (1, 2, 5) if f * power <= target * (1 + 1e-9)))


def draw_scale_bar(axis: Any, shape: tuple[int, ...], pixel_size_m: float | None) -> None:
    """Draw a bar of a round length into the lower left corner of an image.

    Parameters
    ----------
    axis:
        Of matplotlib, which shows the image.
    shape:
        (Y, X) of the image.
    pixel_size_m:
        Object pixel, metres; None: the bar is in pixels.
    """
    height, width = shape
    length = scale_bar_m(width * (pixel_size_m or 1.0))
    x, y, end = 0.05 * width, 0.93 * height, 0.05 * width + length / (pixel_size_m or 1.0)
    axis.plot([x, end], [y, y], color="white", linewidth=5, solid_capstyle="butt")
    axis.plot([x, end], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    label = axis.text(x, y - 0.03 * height, length_text(length, pixel_size_m), fontsize=8, va="bottom", color="black")
    label.set_bbox({"facecolor": "white", "alpha": 0.75, "pad": 1.5, "edgecolor": "none"})


def _show(axis: Any, image: Image, judgement: Judgement, cmap: str, limits: tuple[float, float] | None = None) -> None:
    """Show an image of the sample's plane, with a scale bar; limits default to what 99 % of the pixels span."""
    image = cropped(image)
    known = image[np.isfinite(image)]
    low, high = limits or ((float(v) for v in np.percentile(known, [0.5, 99.5])) if known.size else (0.0, 1.0))
    axis.set_facecolor("0.9")
    shown = axis.imshow(image, cmap=cmap, vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest")
    _colour_bar(axis, shown)
    draw_scale_bar(axis, image.shape, judgement.result.pixel_size_m)


def _colour_bar(axis: Any, shown: Any) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    bar = axis.figure.colorbar(shown, cax=axis.inset_axes((1.02, 0.0, 0.04, 1.0)))
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.outline.set_visible(False)


def _phase(axis: Any, judgement: Judgement) -> None:
    _show(axis, judgement.result.phase, judgement, "gray")


def _amplitude(axis: Any, judgement: Judgement) -> None:
    _show(axis, judgement.result.amplitude, judgement, "gray")


def _uncertainty(axis: Any, judgement: Judgement) -> None:
    image = judgement.phase_std
    if image is not None:
        _show(axis, image, judgement, "viridis", (0.0, float(np.nanpercentile(image, 99))))


def _coverage(axis: Any, judgement: Judgement) -> None:
    result = judgement.result
    _show(axis, result.coverage, judgement, "Blues", (0.0, 1.0))
    centres = (result.positions - np.asarray(result.origin)) / (result.pixel_size_m or 1.0) + result.probe.shape[-1] / 2
    axis.plot(centres[:, 1], centres[:, 0], ".", color=ORANGE, markersize=max(1.0, 4.0 - len(centres) / 300))


def _path(axis: Any, judgement: Judgement) -> None:
    """Draw the positions in their order, dark at the begin, bright at the end."""
    result = judgement.result
    scale, unit = (1.0, "px") if result.pixel_size_m is None else (1e6, "µm")
    y, x = (result.positions * scale).T
    axis.plot(x, y, "-", color=GREY, linewidth=0.4, alpha=0.5, zorder=1)
    axis.scatter(x, y, c=np.arange(len(x)), cmap="viridis", s=max(2.0, 14.0 - len(x) / 100), linewidths=0, zorder=2)
    axis.set(aspect="equal", xlabel=f"x ({unit})", ylabel=f"y ({unit})")
    axis.invert_yaxis()
    axis.grid(alpha=0.3, linewidth=0.5)


def _probe(axis: Any, judgement: Judgement) -> None:
    result = judgement.result
    powers, size = mode_powers(result), result.probe.shape[-1]
    shown = min(4, len(powers))
    columns = 1 if shown == 1 else 2
    canvas = np.full((-(-shown // columns) * size, columns * size), np.nan)
    for k in range(shown):
        row, column = divmod(k, columns)
        mode = np.abs(result.probe[k])
        canvas[row * size : (row + 1) * size, column * size : (column + 1) * size] = mode / mode.max()
        axis.text((column + 0.04) * size, (row + 0.05) * size, f"{powers[k]:.1%}", color="white", fontsize=9, va="top")
    axis.set_facecolor("none")
    axis.imshow(canvas, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if len(powers) > shown:
        axis.set_xlabel(f"and {len(powers) - shown} more, {powers[shown:].sum():.1%}", fontsize=8)


def _frames(axis: Any, judgement: Judgement) -> None:
    patterns = judgement.patterns
    if patterns is None:
        return
    half = patterns.measured.shape[1] // 2
    both = np.concatenate([patterns.measured[:, :half], patterns.modelled[:, half:]], axis=1)
    floor = max(1e-3, float(np.nanpercentile(patterns.measured, 5)))
    image = np.log10(np.maximum(both, floor))
    axis.set_facecolor("0.7")
    shown = axis.imshow(image, cmap="magma", interpolation="nearest")
    axis.axvline(half - 0.5, color="white", linewidth=0.8)
    _colour_bar(axis, shown)


def _frequency_axis(axis: Any, frequency: npt.NDArray[np.float64], judgement: Judgement) -> float:
    """Label the horizontal axis; return the factor from frequencies to it."""
    metres = judgement.result.pixel_size_m is not None
    factor = 1e-6 if metres else 1.0
    axis.set_xlabel("spatial frequency (1/µm)" if metres else "spatial frequency (1/px)")
    axis.set_xlim(0, float(frequency[-1]) * factor)
    _grid(axis)
    return factor


def _grid(axis: Any) -> None:
    axis.set_box_aspect(1)
    axis.grid(alpha=0.3, linewidth=0.5)


def _radial(axis: Any, judgement: Judgement) -> None:
    patterns = judgement.patterns
    if patterns is None:
        return
    x = patterns.frequency * _frequency_axis(axis, patterns.frequency, judgement)
    axis.semilogy(
        x, np.where(patterns.measured_rings > 0, patterns.measured_rings, np.nan), color=BLUE, label="measured"
    )
    axis.semilogy(
        x, np.where(patterns.modelled_rings > 0, patterns.modelled_rings, np.nan), "--", color=ORANGE, label="modelled"
    )
    axis.set_ylim(bottom=max(float(patterns.measured_rings.min()) / 3, 1e-5))
    axis.set_ylabel("counts per pixel")
    _legend(axis)


def _errors(axis: Any, judgement: Judgement) -> None:
    errors = judgement.result.errors
    axis.set_xlabel("epoch")
    _grid(axis)
    axis.plot(np.arange(1, len(errors) + 1), errors, color=BLUE, marker="." if len(errors) < 20 else None)
    if not np.isfinite(judgement.result.r_factor):  # a loss of another program, of any sign
        axis.set_ylabel("loss")
        return
    axis.set(yscale="log", ylabel="R-factor")
    if judgement.patterns is not None:
        axis.axhline(judgement.patterns.r_noise, color=GREY, linestyle=":", label="photon noise alone")
        _legend(axis)
    low = min(float(errors.min()), judgement.patterns.r_noise if judgement.patterns is not None else np.inf)
    high = float(errors.max())
    ticks = np.unique([float(f"{v:.2g}") for v in np.geomspace(max(low, 1e-6), max(high, 1e-5), 5)])
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def _crossing(axis: Any, x: float, text: str) -> None:
    """Mark where a curve crosses its threshold; the words stand on the side that has room."""
    axis.axvline(x, color=GREY, linewidth=0.8)
    side = -1 if x > 0.25 * axis.get_xlim()[1] else 1
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    style: dict[str, Any] = {"fontsize": 8, "ha": "right" if side < 0 else "left", "va": "top", "color": GREY}
    axis.annotate(text, (x, 0.97), (3 * side, 0), rotation=90, **style, **place)


def _legend(axis: Any, place: str = "best") -> None:
    axis.legend(loc=place, fontsize=8, framealpha=0.9, edgecolor="none", borderpad=0.2)


def _correlation(axis: Any, judgement: Judgement) -> None:
    found = judgement.correlation
    if found is None:
        return
    factor = _frequency_axis(axis, found.frequency, judgement)
    x = found.frequency * factor
    axis.plot(x, found.correlation, color=BLUE, label="half data sets" if judgement.between_halves else "two results")
    axis.plot(x, found.half_bit, "--", color=ORANGE, linewidth=1, label="half bit")
    axis.axhline(1 / 7, linestyle=":", color=GREY, label="1/7")
    pixel = judgement.result.pixel_size_m
    if found.resolution > (pixel or 1.0):
        _crossing(axis, factor / (2 * found.resolution), length_text(found.resolution, pixel))
    axis.set_ylim(min(0.0, float(found.correlation.min())) - 0.02, 1.02)
    axis.set_ylabel("correlation")
    _legend(axis)


def _transfer(axis: Any, judgement: Judgement) -> None:
    found = judgement.transfer
    if found is None:
        return
    factor = _frequency_axis(axis, found.frequency, judgement)
    axis.plot(found.frequency * factor, found.transfer, color=BLUE)
    axis.axhline(np.exp(-1), linestyle=":", color=GREY, label="1/e")
    if found.cutoff is not None and found.resolution is not None:
        _crossing(axis, found.cutoff * factor, length_text(found.resolution, judgement.result.pixel_size_m))
    else:
        axis.text(0.97, 0.03, "above 1/e to the edge", fontsize=8, ha="right", transform=axis.transAxes)
    axis.set_ylim(0, 1.05 * max(1.0, float(np.percentile(found.transfer, 95))))
    axis.set_ylabel("agreement of phases")
    _legend(axis, "upper right" if found.cutoff is None else "lower left")


def _positions(axis: Any, judgement: Judgement) -> None:
    result, moved = judgement.result, judgement.moved
    if moved is None:
        return
    chosen = np.unique(np.linspace(0, len(moved) - 1, min(len(moved), MOST_ARROWS)).astype(int))
    scale = 1e6 if result.pixel_size_m is not None else 1.0
    y, x = ((result.positions[chosen] - result.positions.mean(axis=0)) * scale).T
    arrows = axis.quiver(x, y, moved[chosen, 1], moved[chosen, 0], angles="xy", pivot="tip", color=BLUE, width=0.004)
    typical = float(f"{np.percentile(np.hypot(*moved.T), 90):.1g}")
    axis.quiverkey(arrows, 0.82, 1.04, typical, f"{typical:g} px", labelpos="E", fontproperties={"size": 8})
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set_xlabel("x (µm)" if result.pixel_size_m is not None else "x (px)")
    axis.set_ylabel("y (µm)" if result.pixel_size_m is not None else "y (px)")
    axis.grid(alpha=0.3, linewidth=0.5)
