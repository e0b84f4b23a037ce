"""Specimens with structure to look at: a test star, cells, a foam, an integrated circuit.

Each is a thickness map ``t`` between 0 (vacuum) and 1, seen as ``(1 - absorption)**t * exp(-1j * phase_rad * t)``:
X-rays run ahead in matter (refractive index below 1), and with waves ``exp(+1j k z)`` the phase falls.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage
import scipy.spatial

from ptycho_bluesky.errors import DatasetError, report

__all__ = ["cells", "integrated_circuit", "power_law_field", "random_foam", "siemens_star", "transmission"]

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Rows from and to, columns from and to, pixels with fractions."""


def transmission(thickness: npt.NDArray[np.floating], phase_rad: float, absorption: float) -> ComplexArray:
    """Return the complex64 transmission of a material map.

    Parameters
    ----------
    thickness:
        (Y, X), 0 = vacuum, 1 = full thickness.
    phase_rad:
        Phase by which full thickness advances the wave, radians.
    absorption:
        Share of the amplitude lost in full thickness, 0 to below 1.
    """
    if not (0 <= absorption < 1 and np.isfinite(phase_rad)):
        raise DatasetError(
            f"specimen: absorption is {absorption}, phase_rad {phase_rad}; allowed: 0 to below 1; a finite number"
        )
    # By its parts: real exp, cos and sin are vectorised, a complex exp is four times slower.
    t = thickness.astype(np.float32, copy=False)
    amplitude, angle = np.exp(np.float32(np.log1p(-absorption)) * t), np.float32(-phase_rad) * t
    wave = np.empty(t.shape, np.complex64)
    wave.real, wave.imag = amplitude * np.cos(angle), amplitude * np.sin(angle)
    return wave


def _checked_shape(title: str, shape: tuple[int, int], **positive: float) -> None:
    faults = [f"{name} is {value}; it must be above 0" for name, value in positive.items() if not value > 0]
    if len(shape) != 2 or min(shape) < 16:
        faults.append(f"shape is {shape}; allowed is (Y, X), each at least 16")
    if faults:
        raise DatasetError(report(title, faults))


def _cover(inside_px: FloatArray) -> FloatArray:
    """Return the share of each pixel inside a border that is `inside_px` pixels away: anti-aliased edges."""
    return np.clip(inside_px + 0.5, 0.0, 1.0)


def power_law_field(shape: tuple[int, int], rng: np.random.Generator, exponent: float, longest_px: float) -> Image:
    """Return a (Y, X) float32 random field, mean 0 and deviation 1, with amplitudes ``q**-exponent``, q in 1/pixels.

    The spectrum is flat for structures longer than `longest_px`.
    """
    fy, fx = scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.rfftfreq(shape[1])[None]
    amplitude = ((fy**2 + fx**2 + 1 / longest_px**2) ** (-exponent / 2)).astype(np.float32)
    spectrum = scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * amplitude
    spectrum[0, 0] = 0
    field = scipy.fft.irfft2(spectrum, s=shape)
    return np.asarray(field / max(float(field.std()), 1e-12), dtype=np.float32)


def siemens_star(
    shape: tuple[int, int],
    *,
    spokes: int = 36,
    inner_radius: float = 0.06,
    outer_radius: float = 0.46,
    rings: int = 4,
    gap: float = 0.018,
    roughness_px: float = 0.3,
    phase_rad: float = 0.8,
    absorption: float = 0.1,
    seed: int = 0,
) -> ComplexArray:
    """Return a Siemens star as it is made: spokes in rings with gaps between, an open middle, slightly rough edges.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    spokes:
        Periods around the circle.
    inner_radius, outer_radius, gap:
        Where the spokes begin and end, and the width of the gaps between the rings, in units of the shorter side.
    rings:
        Rings of spokes; their widths grow outwards in proportion to their radii.
    roughness_px:
        Standard deviation of the edges' places, pixels.
    phase_rad, absorption:
        Of the metal.
    seed:
        Of the roughness and of the star's rotation.
    """
    _checked_shape("siemens_star", shape, spokes=spokes, rings=rings, inner_radius=inner_radius)
    side, rng = min(shape), np.random.default_rng(seed)
    if not inner_radius < outer_radius:
        raise DatasetError(f"siemens_star: inner_radius {inner_radius} must be below outer_radius {outer_radius}")
    y, x = (np.arange(size, dtype=np.float64) - size // 2 for size in shape)
    r = np.maximum(np.hypot(y[:, None], x[None]), 0.5)
    turn = (np.arctan2(y[:, None], x[None]) / (2 * np.pi) + rng.random() / spokes) * spokes
    # Distance in pixels from the nearest edge of a spoke, along the arc, positive inside.
    spoke = (0.25 - np.abs(np.mod(turn, 1.0) - 0.5)) * (2 * np.pi * r / spokes)
    inside = np.full(shape, -np.inf)
    radii = np.geomspace(inner_radius, outer_radius, rings + 1) * side
    for k, (low, high) in enumerate(itertools.pairwise(radii)):
        low = low if k == 0 else low + gap * side
        inside = np.maximum(inside, np.minimum(np.minimum(r - low, high - r), spoke))
    rough = roughness_px * power_law_field(shape, rng, 1.0, 16.0)
    return transmission(_cover(inside + rough), phase_rad, absorption)


def random_foam(
    shape: tuple[int, int],
    *,
    bubble_px: float = 36.0,
    wall_px: float = 3.0,
    sheets: int = 2,
    phase_rad: float = 1.2,
    absorption: float = 0.12,
    seed: int = 0,
) -> ComplexArray:
    """Return the projection of a foam: `sheets` layers of cells of unlike size, with walls, thicker where they meet.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    bubble_px, wall_px:
        Mean size of a bubble and thickness of a wall, pixels.
    sheets:
        Layers on top of each other.
    phase_rad, absorption:
        Of the thickest place.
    seed:
        Chooses everything else.
    """
    _checked_shape("random_foam", shape, bubble_px=bubble_px, wall_px=wall_px, sheets=sheets)
    rng, total = np.random.default_rng(seed), np.zeros(shape)
    pixels = np.indices(shape, dtype=np.float64).reshape(2, -1).T
    for _ in range(sheets):
        total += _foam_sheet(shape, pixels, bubble_px * rng.uniform(0.7, 1.3), wall_px, rng)
    return transmission(total / total.max(), phase_rad, absorption)


def _foam_sheet(
    shape: tuple[int, int], pixels: FloatArray, bubble: float, wall: float, rng: np.random.Generator
) -> FloatArray:
    pad = 2 * bubble
    count = max(4, int((shape[0] + 2 * pad) * (shape[1] + 2 * pad) / bubble**2))
    seeds = rng.uniform(-pad, np.array(shape) + pad, (count, 2))
    seeds = seeds[rng.random(count) > 0.25 * (rng.random(count) < 0.5)]
    bends = [bubble * 0.08 * power_law_field(shape, rng, 2.0, 2 * bubble).ravel() for _ in range(2)]
    near = np.asarray(scipy.spatial.cKDTree(seeds).query(pixels + np.stack(bends, axis=1), k=3)[0])
    first, second, third = near.T.reshape(3, *shape)
    edge = (second - first) / 2  # distance to the wall's middle, nearly
    walls = _cover(wall / 2 - edge)
    borders = np.exp(-(((third - first) / (2.5 * wall)) ** 2))  # Plateau borders, where three bubbles meet
    film = 0.12 * np.clip(edge / bubble, 0, 1) ** 0.5  # the bubble's bottom and top
    return np.asarray(walls * 0.7 + borders * 0.6 + film)


def cells(
    shape: tuple[int, int],
    *,
    cell_px: float = 90.0,
    coverage: float = 1.1,
    phase_rad: float = 1.0,
    absorption: float = 0.06,
    seed: int = 0,
) -> ComplexArray:
    """Return overlapping cells: smooth domes with a membrane, a grainy cytoplasm, a nucleus, vesicles and vacuoles.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    cell_px:
        Mean diameter of a cell, pixels.
    coverage:
        Area of all cells over that of the field.
    phase_rad, absorption:
        Of the thickest place.
    seed:
        Chooses everything else.
    """
    _checked_shape("cells", shape, cell_px=cell_px, coverage=coverage)
    rng, total = np.random.default_rng(seed), np.zeros(shape)
    grain = power_law_field(shape, rng, 1.3, cell_px / 3)
    count = max(3, round(coverage * shape[0] * shape[1] / (np.pi * cell_px**2 / 4)))
    for centre in _spread(count, shape, rng):
        _add_cell(total, grain, centre, cell_px / 2 * rng.lognormal(0, 0.25), rng)
    return transmission(total / max(total.max(), 1e-12), phase_rad, absorption)


def _spread(count: int, shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """Return (count, 2) random places that keep off each other: of five tries the loneliest (Mitchell's method)."""
    places = rng.uniform(-0.1, 1.1, (1, 2)) * shape
    while len(places) < count:
        tries = rng.uniform(-0.1, 1.1, (5, 2)) * shape
        distance = np.hypot(*(tries[:, None] - places[None]).transpose(2, 0, 1)).min(axis=1)
        places = np.concatenate([places, tries[[distance.argmax()]]])
    return np.asarray(places)


def _add_cell(total: FloatArray, grain: Image, centre: FloatArray, radius: float, rng: np.random.Generator) -> None:
    reach = 1.7 * radius
    low = np.clip(np.floor(centre - reach).astype(int), 0, total.shape)
    high = np.clip(np.ceil(centre + reach).astype(int), 0, total.shape)
    if (low >= high).any():
        return
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    y = np.arange(low[0], high[0])[:, None] - centre[0]
    x = np.arange(low[1], high[1])[None] - centre[1]
    tilt, stretch = rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
    u, v = x * np.cos(tilt) + y * np.sin(tilt), (y * np.cos(tilt) - x * np.sin(tilt)) / stretch
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    border = np.full(r.shape, radius)
    for order in range(2, 7):
        border += radius * rng.normal(0, 0.10 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    inside = border - r  # pixels, nearly
    body = _cover(inside)
    dome = np.sqrt(np.clip(1 - (r / border) ** 2, 0, 1))
    cell = 0.16 * body * np.exp(-(((inside - 1.5) / 1.6) ** 2))  # the membrane, seen edge on
    cell += body * dome * (0.42 + 0.05 * grain[window])
    place = radius * rng.uniform(0, 0.3), rng.uniform(0, 2 * np.pi)
    ny, nx = place[0] * np.sin(place[1]), place[0] * np.cos(place[1])
    nucleus = radius * rng.uniform(0.28, 0.42)
    cell += 0.30 * _ball(y - ny, x - nx, nucleus, rng) + 0.18 * _ball(y - ny, x - nx - nucleus / 3, nucleus / 4, rng)
    for _ in range(int(rng.integers(8, 20))):
        away, turn = radius * rng.uniform(0.35, 0.85), rng.uniform(0, 2 * np.pi)
        size, sign = radius * rng.uniform(0.03, 0.11), rng.choice([1.0, 1.0, -0.7])
        cell += 0.28 * sign * body * dome * _ball(y - away * np.sin(turn), x - away * np.cos(turn), size, rng)
    total[window] += np.maximum(cell, 0) * rng.uniform(0.7, 1.0)


def _ball(y: FloatArray, x: FloatArray, radius: float, rng: np.random.Generator) -> FloatArray:
    """Return the projected thickness of a slightly flattened ball with a visible border, at most 1."""
    tilt, flat = rng.uniform(0, np.pi), rng.uniform(0.65, 1.0)
    r = np.hypot(x * np.cos(tilt) + y * np.sin(tilt), (y * np.cos(tilt) - x * np.sin(tilt)) / flat)
    ball = 0.35 + 0.65 * np.sqrt(np.clip(1 - (r / max(radius, 1.0)) ** 2, 0, 1))
    return np.asarray(_cover(radius - r) * ball)


def integrated_circuit(
    shape: tuple[int, int],
    *,
    layers: int = 4,
    pitch_px: float = 12.0,
    phase_rad: float = 1.0,
    absorption: float = 0.15,
    seed: int = 0,
) -> ComplexArray:
    """Return the wiring of an integrated circuit: layers of Manhattan wires, coarser upwards, with vias between.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    layers:
        Metal layers; odd ones run across, even ones down. Each is wired in some blocks of the chip only.
    pitch_px:
        Of the lowest layer, pixels; each layer up it grows by a third.
    phase_rad, absorption:
        Of the thickest place.
    seed:
        Chooses everything else.
    """
    _checked_shape("integrated_circuit", shape, layers=layers, pitch_px=pitch_px)
    rng, total = np.random.default_rng(seed), np.zeros(shape)
    below: list[Box] = []
    for layer in range(layers):
        pitch = pitch_px * 1.35**layer
        metal, vias = np.zeros(shape), np.zeros(shape)
        wires = _wires(shape, pitch, layer % 2 == 0, rng)
        for wire in wires:
            _draw_box(metal, wire)
        half = 0.3 * pitch_px * 1.35 ** max(0, layer - 1)
        for y, x in _crossings(wires, below, rng):
            _draw_box(vias, (y - half, y + half, x - half, x + half))
        total += metal * (0.5 + 0.15 * layer) + 0.6 * vias
        below = wires
    return transmission(total / max(total.max(), 1e-12), phase_rad, absorption)


def _wires(shape: tuple[int, int], pitch: float, across: bool, rng: np.random.Generator) -> list[Box]:
    """Return wires on tracks of `pitch`: in busy blocks, with breaks, jogs and a few wide power rails."""
    tracks, length = (shape[0], shape[1]) if across else (shape[1], shape[0])
    block = 10 * pitch
    busy = rng.choice([0.2, 0.6, 0.95], (int(tracks / block) + 2, int(length / block) + 2))
    boxes: list[Box] = []
    for track in np.arange(pitch * rng.random(), tracks, pitch):
        rail = rng.random() < 0.05
        width = pitch * (0.9 if rail else 0.42)
        if rail:
            boxes.append((track - width / 2, track + width / 2, -pitch, length + pitch))
            continue
        at = -float(rng.uniform(0, 12 * pitch))
        while at < length:
            end = at + pitch * rng.lognormal(2.0, 0.7)
            if rng.random() < busy[int(track / block), max(0, int(at / block))]:
                boxes.append((track - width / 2, track + width / 2, at, end))
                if rng.random() < 0.3:  # a jog: the wire turns to the next track
                    boxes.append((track - width / 2, track + pitch + width / 2, end - width, end))
            at = end + pitch * rng.uniform(0.6, 2.5)
    return boxes if across else [(x0, x1, y0, y1) for y0, y1, x0, x1 in boxes]


def _crossings(above: list[Box], below: list[Box], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return places (y, x) of vias: some of the crossings of two layers' wires."""
    if not above or not below:
        return []
    a, b = np.array(above), np.array(below)
    low = np.maximum(a[:, None, 0::2], b[None, :, 0::2])
    high = np.minimum(a[:, None, 1::2], b[None, :, 1::2])
    crossing = ((high - low) > 1).all(axis=-1) & (rng.random(low.shape[:2]) < 0.15)
    return [(float(y), float(x)) for y, x in ((low + high) / 2)[crossing]]


def _draw_box(image: FloatArray, box: Box) -> None:
    """Lay a box over `image`, its border pixels by the share covered."""
    y0, y1, x0, x1 = box
    top, left = max(0, int(np.floor(y0))), max(0, int(np.floor(x0)))
    bottom, right = min(image.shape[0], int(np.ceil(y1))), min(image.shape[1], int(np.ceil(x1)))
    if top >= bottom or left >= right:
        return
    y, x = np.arange(top, bottom), np.arange(left, right)
    rows = np.clip(np.minimum(y + 1, y1) - np.maximum(y, y0), 0, 1)
    columns = np.clip(np.minimum(x + 1, x1) - np.maximum(x, x0), 0, 1)
    part = image[top:bottom, left:right]
    np.maximum(part, rows[:, None] * columns[None], out=part)
