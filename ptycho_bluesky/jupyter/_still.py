"""The dashboard as a picture and a few words: for saved notebooks, and wherever there are no widgets."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ptycho_bluesky.jupyter._colours import colour_table
from ptycho_bluesky.jupyter._source import Snapshot
from ptycho_bluesky.stream import LiveChanges

__all__ = ["bundle", "words"]

SIDE = 512
GAP = 8
PAPER = (255, 255, 255)
UNSEEN = (214, 214, 214)


def words(news: Snapshot) -> str:
    """Return the state in a line.

    >>> words(Snapshot(title="star", engine="idle", inferred=99, expected=100, trusted=False, doubt="no probe"))
    'Ptychography dashboard: star, idle, 99 of 100 frames in the image; do not trust it: no probe'
    """
    total = f" of {news.expected}" if news.expected is not None else ""
    parts = [p for p in (news.title, news.engine or news.live) if p]
    doubt = f"; do not trust it: {news.doubt}" if news.trusted is False else ""
    return f"Ptychography dashboard: {', '.join([*parts, f'{news.inferred}{total} frames in the image'])}{doubt}"


def bundle(news: Snapshot, image: LiveChanges | None) -> dict[str, Any]:
    """Return words, and phase and amplitude side by side as a PNG where there is an image, by MIME type."""
    data: dict[str, Any] = {"text/plain": words(news)}
    if image is not None and image.tiles:
        data["image/png"] = base64.b64encode(_png(image)).decode()
    return data


def _png(image: LiveChanges) -> bytes:
    step = -(-max(image.shape) // SIDE)
    panes = []
    for name, colours in (("phase", "cividis"), ("amplitude", "grey")):
        whole = np.full(image.shape, np.nan, np.float32)
        for tile in image.tiles:
            whole[tile.rows, tile.columns] = getattr(tile, name)
        panes.append(_coloured(whole[::step, ::step], colours))
    gap = np.full((panes[0].shape[0], GAP, 3), PAPER, np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.concatenate([panes[0], gap, panes[1]], 1)).save(file, "PNG")
    return file.getvalue()


def _coloured(values: npt.NDArray[np.float32], colours: str) -> npt.NDArray[np.uint8]:
    seen = np.isfinite(values)
    low, high = np.percentile(values[seen], (1, 99)) if seen.any() else (0.0, 1.0)
    scaled = (np.nan_to_num(values) - low) * (255 / max(high - low, 1e-6))
    pixels = colour_table(colours)[np.clip(scaled, 0, 255).astype(np.uint8)]
    pixels[~seen] = UNSEEN
    return pixels
