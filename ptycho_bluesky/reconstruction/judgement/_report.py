"""A report of one page: what was reconstructed, how good it is and where it came from, as PNG or HTML."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction.judgement._frc import RingCorrelation
from ptycho_bluesky.reconstruction.judgement._halves import HalfDataResult
from ptycho_bluesky.reconstruction.judgement._page import DARK, Picture, html_page
from ptycho_bluesky.reconstruction.judgement._panels import Panel, panels_of
from ptycho_bluesky.reconstruction.judgement._uncertainty import Uncertainty
from ptycho_bluesky.reconstruction.judgement._verdict import Judgement, judge, length_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["report_figure", "write_report"]

Rows = Sequence[tuple[str, str]]

WIDTH = 15.0
"""Of the page, inches; it prints on A4 or Letter, landscape."""

GREEN, AMBER = "#1b7f4b", "#b35c00"


def report_figure(
    result: Reconstruction,
    dataset: PtychoDataset | None = None,
    uncertainty: Uncertainty | None = None,
    frc: RingCorrelation | HalfDataResult | None = None,
    title: str = "",
) -> Figure:
    """Return the report as a matplotlib figure of one page; parameters as for :func:`write_report`."""
    return _figure(judge(result, dataset, frc, uncertainty), title or _title(result))


def write_report(
    path: str | Path,
    result: Reconstruction,
    dataset: PtychoDataset | None = None,
    uncertainty: Uncertainty | None = None,
    frc: RingCorrelation | HalfDataResult | None = None,
    title: str = "",
    sections: Sequence[tuple[str, Rows]] = (),
) -> Judgement:
    """Write a report of one page.

    Parameters
    ----------
    path:
        ``.png``, or ``.html``: a page by itself, its pictures inside, without scripts.
    result:
        What is judged.
    dataset:
        What it was made from: adds photon noise, measured against modelled frames, and shifts of positions.
    uncertainty:
        Adds its map, and with `dataset` the phase retrieval transfer function.
    frc:
        Half data sets, or a correlation with another result: adds curve and resolution.
    title:
        None given: name of the data and engine.
    sections:
        More tables for the page, in HTML alone: (name, rows of label and value).

    Returns
    -------
    Judgement
        What the report says.

    Raises
    ------
    FormatError
        When the file has another suffix or cannot be written.
    ReconstructionError
        When the result was not made from this dataset.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".png", ".html"):
        raise FormatError(f"report {path} has the suffix {path.suffix!r}; allowed are .png and .html")
    judgement = judge(result, dataset, frc, uncertainty)
    title = title or _title(result)
    if path.suffix.lower() == ".png":
        content = _png(_figure(judgement, title), 110)
    else:
        content = _page(judgement, title, sections).encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise FormatError(
            f"report {path} cannot be written: {error.strerror}; give a file in a folder that exists and can be "
            "written to"
        ) from None
    return judgement


def _title(result: Reconstruction) -> str:
    name = result.provenance.get("dataset") or "reconstruction"
    return f"{name}: {len(result.positions)} frames, engine {result.engine}"


def _rows(judgement: Judgement) -> list[tuple[str, str]]:
    """Return the numbers, with units, for people."""
    numbers, pixel = judgement.numbers(), judgement.result.pixel_size_m
    unit = "px" if pixel is None else "m"
    lengths = {
        "pixel size": "pixel_size_m",
        "resolution, half bit": f"resolution_half_bit_{unit}",
        "resolution, 1/7": f"resolution_one_seventh_{unit}",
        "resolution, PRTF at 1/e": f"prtf_resolution_{unit}",
    }
    formats = {
        "R-factor": ("r_factor", "{:.4f}"),
        "of photon noise alone": ("r_noise", "{:.4f}"),
        "phase contrast": ("phase_contrast_rad", "{:.3f} rad"),
        "phase uncertainty": ("phase_uncertainty_rad", "{:.2g} rad"),
        "positions moved, rms": ("position_shift_rms_px", "{:.3g} px"),
        "photons in a frame": ("photons_per_frame", "{:.4g}"),
        "frames": ("frames", "{}"),
        "epochs": ("epochs", "{}"),
    }
    rows = [(label, form.format(numbers[key])) for label, (key, form) in formats.items() if key in numbers]
    rows[3:3] = [(label, length_text(numbers[key], pixel)) for label, key in lengths.items() if key in numbers]
    return [*rows, ("power of the probe modes", ", ".join(f"{share:.1%}" for share in numbers["mode_powers"]))]


def _origin(result: Reconstruction) -> list[tuple[str, str]]:
    """Return provenance and options as text."""
    entries: dict[str, Any] = {"engine": result.engine, **result.provenance}
    entries["options"] = result.parameters
    rows = []
    for key, value in entries.items():
        if value is None or value == [] or value == {}:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = "; ".join(value)
        rows.append((key.replace("_", " "), value if isinstance(value, str) else json.dumps(value)))
    return rows


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _drawn(panel: Panel, axis: Any, judgement: Judgement) -> None:
    axis.set_title(panel.title, fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
    panel.draw(axis, judgement)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_fontsize(8.5)


def _figure(judgement: Judgement, title: str) -> Figure:
    from matplotlib.figure import Figure  # half a second to import, and needed here alone
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = panels_of(judgement)
    columns = min((4, 5), key=lambda count: -len(panels) % count)  # the fewer empty places
    rows = -(-len(panels) // columns)
    head = [
        (finding.good, line if k else f"{'•' if finding.good else '▶'}  {line}")
        for finding in judgement.findings
        for k, line in enumerate(textwrap.wrap(finding.text, 175))
    ]
    tables = [_lines(_rows(judgement), 60), _lines(_origin(judgement.result), 75)]
    heights = [0.5 + 0.22 * len(head), *[12.6 / columns] * rows, 0.35 + 0.19 * max(map(len, tables))]
    layout = ConstrainedLayoutEngine(rect=(0.015, 0.01, 0.97, 0.98), w_pad=0.1, h_pad=0.08, hspace=0, wspace=0)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout=layout)
    grid = figure.add_gridspec(len(heights), 2 * columns, height_ratios=heights)
    _head(figure.add_subplot(grid[0, :]), judgement, title, head, heights[0])
    for k, panel in enumerate(panels):
        row, column = divmod(k, columns)
        _drawn(panel, figure.add_subplot(grid[1 + row, 2 * column : 2 * column + 2]), judgement)
    _table(figure.add_subplot(grid[-1, :columns]), "Numbers", tables[0], heights[-1])
    _table(figure.add_subplot(grid[-1, columns:]), "Origin", tables[1], heights[-1])
    return figure


def _head(axis: Any, judgement: Judgement, title: str, lines: list[tuple[bool, str]], height: float) -> None:
    axis.set_axis_off()
    style = {"fontsize": 15, "va": "top", "transform": axis.transAxes}
    axis.text(0, 1, title, **style)
    axis.text(1, 1, judgement.headline, ha="right", weight="bold", color=GREEN if judgement.good else AMBER, **style)
    for k, (good, text) in enumerate(lines):
        y = 1 - (0.42 + 0.22 * k) / height
        axis.text(0, y, text, fontsize=10, va="top", color="0.15" if good else AMBER, transform=axis.transAxes)


def _lines(rows: list[tuple[str, str]], width: int) -> list[tuple[str, str]]:
    """Break long values into lines of their own."""
    return [
        ("" if k else label, line)
        for label, value in rows
        for k, line in enumerate(textwrap.wrap(value, width) or [""])
    ]


def _table(axis: Any, title: str, lines: list[tuple[str, str]], height: float) -> None:
    axis.set_axis_off()
    style = {"va": "top", "transform": axis.transAxes}
    axis.text(0, 1, title, fontsize=11, weight="bold", **style)
    for k, (label, value) in enumerate(lines):
        y = 1 - (0.27 + 0.19 * k) / height
        axis.text(0, y, label, fontsize=8.5, color="0.35", **style)
        axis.text(0.28, y, value, fontsize=8.5, **style)


def _page(judgement: Judgement, title: str, sections: Sequence[tuple[str, Rows]]) -> str:
    import matplotlib.figure  # as above

    def drawn(panel: Panel) -> bytes:
        figure = matplotlib.figure.Figure(figsize=(3.75, 3.2), layout="constrained")
        _drawn(panel, figure.add_subplot(), judgement)
        return _png(figure, 130)

    pictures = []
    for panel in panels_of(judgement):
        light = drawn(panel)
        with matplotlib.rc_context(DARK):
            pictures.append(Picture(panel.title, light, drawn(panel)))
    tables = [*sections, ("Numbers", _rows(judgement)), ("Origin", _origin(judgement.result))]
    return html_page(title, judgement, pictures, tables)
