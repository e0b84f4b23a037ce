"""Amplitudes from memory and streamed are the same numbers."""

import numpy as np
import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._amplitudes import BAD_PIXEL, MemoryAmplitudes, StreamedAmplitudes, amplitudes_of

COUNT = 60
RNG = np.random.default_rng(0)
CORNERS = RNG.uniform(0, 100, (COUNT, 2))


def counts(dtype: str, size: int) -> np.ndarray:
    return RNG.poisson(30, (COUNT + 10, size, size)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
@pytest.mark.parametrize("size", [16, 15])
@pytest.mark.parametrize("reciprocal", [True, False], ids=["far", "near"])
@pytest.mark.parametrize("masked", [True, False])
def test_streamed_amplitudes_are_those_in_memory(dtype, size, reciprocal, masked):
    stored, mask = counts(dtype, size), None
    if masked:
        mask = RNG.random((size, size)) < 0.2
        stored[:, mask] = 7
    used = np.sort(RNG.permutation(COUNT + 10)[:COUNT])
    expected = amplitudes_of(stored[used], mask, reciprocal)
    assert not masked or (expected[:, np.fft.ifftshift(mask) if reciprocal else mask] == BAD_PIXEL).all()
    total = float(np.maximum(expected, 0).sum(dtype=np.float64))
    streamed = StreamedAmplitudes(stored, used, mask, reciprocal, CORNERS, total, block=13)
    memory = MemoryAmplitudes(expected, CORNERS, block=13)
    assert memory.total == pytest.approx(streamed.total, rel=1e-6)
    order = [3, 0, 4, 1, 2]
    for one, other in zip(streamed.load(order), memory.load(order), strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_allclose(one.amplitude[one.rows], other.amplitude[other.rows], rtol=1e-6)
    some = np.array([5, 59, 0, 17])
    np.testing.assert_allclose(streamed.of(some), expected[some], rtol=1e-6)


def test_a_file_that_was_shortened_is_told_by_the_frames_that_are_missing():
    stored = counts("uint16", 16)
    streamed = StreamedAmplitudes(stored, np.arange(COUNT) + 10, None, True, CORNERS, 1.0)
    streamed._frames = stored[: COUNT - 5]
    with pytest.raises(ReconstructionError, match="was the file shortened"):
        list(streamed.load([0]))


def test_no_block_asked_for_is_no_block():
    streamed = StreamedAmplitudes(counts("uint16", 16), np.arange(COUNT), None, True, CORNERS, 1.0)
    assert list(streamed.load([])) == []
