"""Models for edge processes under test: exact ones, which read the place from the frame, and bad ones."""

import os
import signal
import time

import numpy as np

from ptycho_bluesky.inference._protocol import Patches

SHIFT = 1000.0
POISON = 7.0


def truth(rows, columns):
    """Phase of the known object at object pixels, radians."""
    return 1.2 * np.sin(rows / 17.0) * np.cos(columns / 23.0) + 0.8 * np.sin((rows + columns) / 31.0)


def frame_at(y, x, size=64, dtype=np.float32):
    """A frame that says where it was taken, in its first pixels."""
    frame = np.ones((size, size), np.float64)
    frame[0, :2] = y + SHIFT, x + SHIFT
    return frame.astype(dtype)


class Exact:
    """Returns what is there, with a free constant for each patch."""

    delay_s = 0.0
    scale, offset = 1.0, (0.0, 0.0)

    def for_probe(self, probe, pixel_size_m, frame_size, /, *, mask=None):
        n = int(frame_size / self.scale)
        i = (np.arange(n) - n / 2 + 0.5) / (n / 6)
        weight = np.exp(-(i[:, None] ** 2 + i[None] ** 2) / 2).astype(np.float32)
        rng = np.random.default_rng(0)

        def predict(frames):
            if (frames[:, 0, 2] == POISON).any():
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.delay_s)
            where = frames[:, 0, :2].astype(float) - SHIFT + self.offset
            k = np.arange(n) * self.scale
            phase = truth(where[:, 0, None, None] + k[:, None], where[:, 1, None, None] + k[None])
            phase = phase + rng.uniform(-3, 3, (len(frames), 1, 1))
            return Patches(phase.astype(np.float32), None, weight, self.scale, self.offset)

        return predict


class Slow(Exact):
    delay_s = 0.05


class Coarse(Exact):
    scale, offset = 2.0, (0.5, 0.5)


class Unready(Exact):
    def for_probe(self, probe, pixel_size_m, frame_size, /, *, mask=None):
        raise ValueError("this network wants a probe of its own")


class Broken:
    def __init__(self):
        raise ImportError("weights are missing")


class Faulty(Exact):
    """Fails on frames with a mark; answers NaN on others."""

    def for_probe(self, probe, pixel_size_m, frame_size, /, *, mask=None):
        exact = super().for_probe(probe, pixel_size_m, frame_size)

        def predict(frames):
            if (frames[:, 0, 2] == 3).any():
                raise RuntimeError("out of memory")
            patches = exact(frames)
            patches.phase[frames[:, 0, 2] == 4] = np.nan
            return patches

        return predict


def phase_error(mosaic, least):
    """Rms error of a final mosaic (path) against the known object, the free constant and ramp removed; radians."""
    with np.load(mosaic) as data:
        phase, coverage, (y0, x0), pixel = data["phase"], data["coverage"], data["origin"], float(data["pixel_size"])
    rows, columns = (o + pixel * np.arange(n) for o, n in zip((y0, x0), phase.shape, strict=True))
    phasor = np.where(coverage > least, np.exp(1j * (np.nan_to_num(phase) - truth(rows[:, None], columns[None]))), 0)
    for axis in (0, 1):  # what is left of the ramp is a plane: its slope is the mean step
        first, second = (np.take(phasor, range(k, phasor.shape[axis] - 1 + k), axis) for k in (0, 1))
        slope = np.angle((second * first.conj()).sum())
        phasor = phasor * np.exp(-1j * slope * np.arange(phasor.shape[axis])).reshape((-1, 1) if axis == 0 else (1, -1))
    phasor = phasor[coverage > least]
    return float(np.sqrt(np.mean(np.angle(phasor / phasor.mean()) ** 2)))
