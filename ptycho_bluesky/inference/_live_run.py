"""One run in the edge process: from frames as they come to the mosaic, with an account of every one of them."""

from __future__ import annotations

import collections
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError, InferenceError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.inference._canvas import SharedCanvas
from ptycho_bluesky.inference._gate import FrameGate, Refused
from ptycho_bluesky.inference._misfit import Misfit
from ptycho_bluesky.inference._protocol import Model, Patches, Predictor
from ptycho_bluesky.optics import probe_from_info, propagator_for
from ptycho_bluesky.stream import FileSlice, SliceReader

__all__ = ["Counts", "LiveRun", "RawFrame"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawFrame:
    """A frame on its way to the gate."""

    index: int
    y: float
    x: float
    time: float
    pixels: npt.NDArray[Any]


@dataclass
class Counts:
    """What became of each frame; survives the edge process."""

    inferred: int = 0
    lost: int = 0
    """Given up because they had killed the edge process twice."""
    refused: dict[str, int] = field(default_factory=dict)
    first_refused: dict[str, int] = field(default_factory=dict)
    range_done: int = 0
    """Frames done of the range that is being read."""
    began: float = 0.0
    ended: float = 0.0

    def refuse(self, reason: str, index: int, count: int = 1) -> None:
        """Count refused frames under their reason."""
        if reason not in self.refused:
            logger.warning("frame %d refused: %s (further ones of this kind are only counted)", index, reason)
            self.first_refused[reason] = index
        self.refused[reason] = self.refused.get(reason, 0) + count


class LiveRun:
    """Frames of one run to one mosaic.

    Parameters
    ----------
    start:
        The message that opened the run: ``uid``, ``ptychography``, ``probe_file``, ``expected``, ``extents``,
        ``shape`` once it is known.
    model:
        The network.
    session:
        Name of the session, for the image's segments.
    batch:
        Frames for one call of the network, at most.
    saved:
        ``counts`` and ``canvas`` of a predecessor that died, or None.
    """

    def __init__(
        self, start: dict[str, Any], model: Model, session: str, batch: int, saved: dict[str, Any] | None = None
    ) -> None:
        self.start, self.uid, self._model, self.batch = start, str(start["uid"]), model, batch
        self.metadata = PtychographyMetadata.model_validate(start["ptychography"])
        self.counts = Counts() if saved is None else Counts(**saved["counts"])
        self.canvas = SharedCanvas(session, None if saved is None else saved["canvas"])
        self.trouble = ""
        self.latencies: collections.deque[float] = collections.deque(maxlen=1000)
        self.residuals: collections.deque[float] = collections.deque(maxlen=200)
        self._recent: collections.deque[tuple[float, int]] = collections.deque(maxlen=400)
        self._files = SliceReader()
        self._gate: FrameGate | None = None
        self._predictor: Predictor | None = None
        self._misfit: Misfit | None = None
        self._scale = float(start.get("scale", 1.0))
        if start.get("shape"):
            self.prepare(tuple(start["shape"]))

    # the network ------------------------------------------------------------------------------------------------------

    def prepare(self, shape: tuple[int, int]) -> None:
        """Make gate, network and misfit for frames of `shape` (H, W); what goes wrong becomes the run's trouble."""
        if self._gate is not None or self.trouble:
            return
        self.start["shape"] = list(shape)
        try:
            self._gate = FrameGate(self.metadata, shape)
            size, geometry = self._gate.frame_size, self.metadata.geometry
            probe = self._probe(size)
            if geometry is not None and geometry.modality == "near-field":
                raise InferenceError("networks know the far field alone; its reconstruction will show this scan")
            self._predictor = self._model.for_probe(probe, self._gate.pixel_size_m, size, mask=self._gate.mask)
            if probe is not None:
                self._misfit = Misfit(probe, propagator_for(geometry, "far-field", size))
            blank = np.zeros((1, size, size), np.float32)
            blank[:, size // 2, size // 2] = 1000
            for count in {1, self.batch}:  # first calls allocate, choose kernels, capture graphs
                self._predictor(np.repeat(blank, count, axis=0))
        except Exception as error:
            logger.exception("the network cannot be made ready for run %s", self.uid)
            self._predictor, self.trouble = None, f"no network for this run: {error}"

    def _probe(self, size: int) -> npt.NDArray[np.complex64] | None:
        if file := self.start.get("probe_file"):
            probe = np.load(file, allow_pickle=False).astype(np.complex64)
            probe = probe[None] if probe.ndim == 2 else probe
            if probe.shape[1:] != (size, size):
                raise InferenceError(f"the probe has shape {probe.shape}, frames {size} x {size}; they must agree")
            return np.asarray(probe, np.complex64)
        if self.metadata.probe is None:
            return None
        return np.asarray(probe_from_info(self.metadata.probe, self.metadata.geometry, size), np.complex64)

    # frames -----------------------------------------------------------------------------------------------------------

    def process(self, frames: Iterable[RawFrame]) -> None:
        """Take frames through gate, network and mosaic; none of them can stop the run."""
        passed: list[tuple[RawFrame, tuple[float, float], npt.NDArray[np.float32]]] = []
        for frame in frames:
            self.counts.began = self.counts.began or frame.time
            if self._gate is None and frame.pixels.ndim == 2:
                self.prepare((frame.pixels.shape[0], frame.pixels.shape[1]))
            try:
                if self._gate is None or self._predictor is None:
                    raise Refused("no network")
                passed.append((frame, self._gate.corner_px(frame.y, frame.x), self._gate.prepare(frame.pixels)))
            except Refused as reason:
                self.counts.refuse(str(reason), frame.index)
        for first in range(0, len(passed), self.batch):
            self._infer(passed[first : first + self.batch])

    def _infer(self, batch: list[tuple[RawFrame, tuple[float, float], npt.NDArray[np.float32]]]) -> None:
        stack = np.stack([counts for _, _, counts in batch])
        try:
            patches = self._call(stack)
            misfits = np.full(len(batch), np.nan, np.float32) if self._misfit is None else self._misfit(stack, patches)
        except Exception as error:
            if len(batch) > 1:  # find the one that the network cannot take
                for one in batch:
                    self._infer([one])
                return
            logger.exception("the network failed on frame %d", batch[0][0].index)
            self.trouble = f"the network failed: {error}"
            self.counts.refuse("network failed", batch[0][0].index)
            return
        usable = np.asarray(np.isfinite(patches.phase).all(axis=(1, 2)))
        if patches.amplitude is not None:
            usable &= np.isfinite(patches.amplitude).all(axis=(1, 2))
        top = float(patches.weight.max())
        weight = (patches.weight / top if top > 0 else patches.weight).astype(np.float32)
        for k, (frame, corner, _) in enumerate(batch):
            if not usable[k]:
                self.counts.refuse("network gave no finite patch", frame.index)
                continue
            first = tuple((c + o) / patches.scale for c, o in zip(corner, patches.offset, strict=True))
            amplitude = None if patches.amplitude is None else patches.amplitude[k]
            if not self.canvas.mosaic.reserve((first[0], first[1]), patches.phase.shape[1:]):
                self.counts.refuse("position far outside", frame.index)
                continue
            self.canvas.mosaic.add(patches.phase[k], amplitude, weight, (first[0], first[1]), float(misfits[k]))
            self.counts.inferred += 1
            self.residuals.append(float(misfits[k]))
            self.latencies.append(time.time() - frame.time)
        self.canvas.touched()
        self.counts.ended = time.time()
        self._recent.append((self.counts.ended, len(batch)))

    def _call(self, stack: npt.NDArray[np.float32]) -> Patches:
        if self._predictor is None:
            raise InferenceError("there is no network for this run")
        patches = self._predictor(stack)
        shape = patches.phase.shape
        if len(shape) != 3 or shape[0] != len(stack) or patches.weight.shape != shape[1:]:
            raise InferenceError(
                f"the network returned phase {shape} and weight {patches.weight.shape} for {len(stack)} "
                "frames; allowed are (B, h, w) and (h, w)"
            )
        if self.canvas.mosaic.canvas.size == 0:
            self._scale = self.start["scale"] = float(patches.scale)
            self._reserve_field(patches)
        return patches

    def _reserve_field(self, patches: Patches) -> None:
        """Make the canvas as large as the scan is planned, so that the live image does not change its size."""
        extents = self.start.get("extents")
        if self._gate is None or not extents:
            return
        corners = np.array([self._gate.corner_px(extents[0][k], extents[1][k]) for k in (0, 1)])
        low, high = ((v + np.array(patches.offset)) / patches.scale for v in (corners.min(axis=0), corners.max(axis=0)))
        rows, columns = (int(n) for n in np.ceil(high - low) + patches.phase.shape[1:])
        self.canvas.mosaic.reserve((float(low[0]), float(low[1])), (rows, columns))

    def read_range(self, message: dict[str, Any]) -> Iterator[None]:
        """Process frames that lie in a file, yielding after every batch."""
        frames, first, when = FileSlice(**message["frames"]), int(message["index"]), float(message["time"])
        count = frames.stop - frames.start
        while (done := self.counts.range_done) < count:
            stop = min(done + self.batch, count)
            try:
                pixels = self._files.read(frames.part(done, stop))
                y, x = (self._positions(message[key], done, stop) for key in ("y", "x"))
            except FormatError as error:
                logger.warning("%s", error)
                self.trouble = str(error)
                self.counts.refuse("not in the file", first + done, count - done)
                break
            pixels = pixels.reshape(stop - done, *pixels.shape[-2:])
            self.process(
                RawFrame(first + done + k, float(y[k]), float(x[k]), when, pixels[k]) for k in range(stop - done)
            )
            self.counts.range_done = stop
            yield
        self.counts.range_done = 0

    def _positions(self, source: dict[str, Any] | list[float], start: int, stop: int) -> npt.NDArray[np.float64]:
        if isinstance(source, list):
            return np.array(source[start:stop], np.float64)
        return np.asarray(self._files.read(FileSlice(**source).part(start, stop)), np.float64).ravel()

    # results ----------------------------------------------------------------------------------------------------------

    @property
    def mosaic_pixel(self) -> float:
        """Side of a mosaic pixel in metres, or in object pixels."""
        return self._scale * ((self._gate.pixel_size_m if self._gate is not None else None) or 1.0)

    def figures(self, dropped: int) -> dict[str, Any]:
        """Return counts, rates and latencies under the names of :class:`LiveStatus`."""
        counts = self.counts
        refused, lost = sum(counts.refused.values()), dropped + counts.lost
        latency = [float(v) * 1e3 for v in np.percentile(self.latencies, [50, 95])] if self.latencies else [None, None]
        known = [v for v in self.residuals if np.isfinite(v)]
        return {
            "run_uid": self.uid,
            "frames": counts.inferred + refused + lost,
            "frames_inferred": counts.inferred,
            "frames_refused": refused,
            "frames_dropped": lost,
            "refused": counts.refused,
            "first_refused": counts.first_refused,
            "latency_ms_p50": latency[0],
            "latency_ms_p95": latency[1],
            "residual": float(np.median(known)) if known else None,
        }

    def rate(self) -> float:
        """Return the frames per second of the last two seconds."""
        now = time.time()
        recent = [(when, count) for when, count in self._recent if now - when < 2.0]
        if len(recent) < 2:
            return 0.0
        return sum(count for _, count in recent[1:]) / max(recent[-1][0] - recent[0][0], 1e-3)

    def finish(self, folder: Path, state: str, dropped: int, show: Callable[[], object]) -> dict[str, Any]:
        """Write the final mosaic (.npz) and statistics (.json) and return these.

        Parameters
        ----------
        folder:
            Where to.
        state:
            "done", or why the run ended otherwise.
        dropped:
            Frames that the ring could not take.
        show:
            Called for a last publication of the image.
        """
        show()
        counts, mosaic = self.counts, self.canvas.mosaic
        seconds = max(counts.ended - counts.began, 0.0)
        path, result = folder / f"{self.uid}.npz", self.figures(dropped)
        phase, amplitude, coverage, residual = mosaic.maps(level=True)
        origin = np.array([mosaic.field[0], mosaic.field[2]]) * self.mosaic_pixel
        result |= {
            "state": state,
            "exit_status": self.start.get("exit_status"),
            "seconds": round(seconds, 4),
            "frames_per_second": round(counts.inferred / seconds, 2) if seconds > 0 else 0.0,
            "mosaic_shape": list(phase.shape),
            "message": self.trouble,
            "mosaic": str(path),
        }
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial, phase=phase, amplitude=amplitude, coverage=coverage, residual=residual, origin=origin,
            pixel_size=self.mosaic_pixel, run_uid=self.uid, ptychography=json.dumps(self.start["ptychography"]),
        )  # fmt: skip
        partial.replace(path)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1))
        partial.replace(path.with_suffix(".json"))
        self._files.close()
        return result
