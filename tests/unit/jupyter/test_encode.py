"""Pixels on their way to the browser: what was measured comes out, what was not is 0."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_bluesky.jupyter import pack
from ptycho_bluesky.jupyter._colours import colour_table, colours
from ptycho_bluesky.jupyter._encode import LAYERS, encode_frame, encode_layer, encode_picture, encode_tiles
from ptycho_bluesky.stream import LiveTile


def decode(name: str, code: np.ndarray) -> np.ndarray:
    """As pixels.js does."""
    low, high, bits = LAYERS[name]
    return np.where(code == 0, np.nan, low + (code.astype(float) - 1) / ((1 << bits) - 2) * (high - low))


@given(st.sampled_from(sorted(LAYERS)), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_a_layer_comes_back_within_half_a_step(name: str, fractions: list[float]) -> None:
    low, high, bits = LAYERS[name]
    values = np.array([low + f * (high - low) for f in fractions], np.float32)
    step = (high - low) / ((1 << bits) - 2)
    np.testing.assert_allclose(decode(name, encode_layer(name, values.copy())), values, atol=0.51 * step)


def test_not_measured_is_zero_and_the_rest_never() -> None:
    code = encode_layer("phase", np.array([np.nan, -np.inf, np.inf, 0.0, -1e9, 1e9], np.float32))
    assert code.tolist() == [0, 1, 65535, 32768, 1, 65535]


def test_tiles_follow_one_another() -> None:
    tiles = []
    for row, column, height, width in ((0, 64, 64, 64), (64, 128, 3, 5)):
        maps = np.full((5, height, width), 0.25 * len(tiles), np.float32)
        tiles.append(LiveTile(slice(row, row + height), slice(column, column + width), *maps))
    places, (phase, confidence) = encode_tiles(tiles, ["phase", "confidence"])
    assert places == [[0, 64, 64, 64], [64, 128, 3, 5]]
    assert phase.size == confidence.size == 64 * 64 + 15
    assert decode("phase", phase)[-1] == pytest.approx(0.25, abs=1e-3)
    assert tiles[1].phase[0, 0] == 0.25, "the source's tiles are left as they are"


def test_a_frame_is_logarithmic_masked_and_keeps_lone_hot_pixels_when_it_is_made_smaller() -> None:
    pixels = np.zeros((600, 500), np.uint16)
    pixels[301, 77] = 5000
    mask = np.zeros(pixels.shape, bool)
    mask[0:6, 0:6] = True
    shown, top = encode_frame(pixels, mask)
    assert shown.shape == (200, 167)
    assert top == 5000
    assert shown[301 // 3, 77 // 3] == 255
    assert shown[0, 0] == shown[1, 1] == 0
    assert shown[50, 50] == 1


def test_a_picture_is_thinned_to_what_a_screen_shows() -> None:
    code, step = encode_picture("amplitude", np.ones((1500, 2100), np.float32))
    assert (code.shape, step) == ((500, 700), 3)


def test_a_packed_message_is_found_by_its_header_and_aligned() -> None:
    first, second = np.arange(5, dtype=np.uint16), np.arange(3, dtype=np.uint8)
    data = pack({"t": "tiles", "text": "µ"}, [first, second])
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    assert (4 + length) % 8 == 0
    assert header == {"t": "tiles", "text": "µ", "sizes": [10, 3]}
    assert data[4 + length : 4 + length + 10] == first.tobytes()
    assert data[4 + length + 16 : 4 + length + 19] == second.tobytes()


def test_colour_maps_run_from_end_to_end_and_twilight_meets_itself() -> None:
    for name in colours():
        table = colour_table(name)
        assert table.shape == (256, 3)
        assert np.abs(np.diff(table.astype(int), axis=0)).max() <= 12, "no steps that are not in the data"
    assert np.array_equal(colour_table("twilight")[0], colour_table("twilight")[-1])
    lightness = colour_table("cividis") @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -1).all(), "told apart without colours"
