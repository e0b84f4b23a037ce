"""One run in the edge process: from frames as they come to the mosaic, with an account of every one of them."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError, InferenceError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.inference._canvas import SharedCanvas
from ptycho_bluesky.inference._confidence import Confidence
from ptycho_bluesky.inference._gate import Refused
from ptycho_bluesky.inference._live_account import Counts, Pace, RawFrame
from ptycho_bluesky.inference._protocol import Patches
from ptycho_bluesky.inference._ready import Network, ReadyNetwork
from ptycho_bluesky.stream import FileSlice, SliceReader

__all__ = ["Counts", "LiveRun", "RawFrame"]

logger = logging.getLogger(__name__)

Passed = tuple[RawFrame, tuple[float, float], npt.NDArray[np.float32], float]
"""Frame, its corner, its counts and the share of them that was saturated."""

Inferred = tuple[npt.NDArray[np.float32], Patches, npt.NDArray[np.float32]]
"""Counts (B, H, W), what the network made of them, and its misfits (B,)."""


class LiveRun:
    """Frames of one run to one mosaic.

    Parameters
    ----------
    start:
        The message that opened the run: ``uid``, ``ptychography``, ``probe_file``, ``expected``, ``extents``,
        ``shape`` once it is known.
    network:
        The network.
    session:
        Name of the session, for the image's segments.
    batch:
        Frames for one call of the network, at most.
    saved:
        ``counts`` and ``canvas`` of a predecessor that died, or None.
    """

    def __init__(
        self, start: dict[str, Any], network: Network, session: str, batch: int, saved: dict[str, Any] | None = None
    ) -> None:
        self.start, self.uid, self.network, self.batch = start, str(start["uid"]), network, batch
        self.metadata = PtychographyMetadata.model_validate(start["ptychography"])
        self.counts = Counts() if saved is None else Counts(**saved["counts"])
        self.canvas = SharedCanvas(session, None if saved is None else saved["canvas"])
        self.trouble = ""
        self.confidence: Confidence | None = None
        self._pace, self._residuals = Pace(), np.empty(0, np.float32)
        self._files = SliceReader()
        self._network_thread = ThreadPoolExecutor(1, "network")
        self._ready: ReadyNetwork | None = None
        self._scale = float(start.get("scale", 1.0))
        if start.get("shape"):
            self.prepare(tuple(start["shape"]))

    # the network ------------------------------------------------------------------------------------------------------

    def prepare(self, shape: tuple[int, int]) -> None:
        """Make the network ready for frames of `shape` (H, W); what goes wrong becomes the run's trouble."""
        if self._ready is not None or self.trouble:
            return
        self.start["shape"] = list(shape)
        try:
            self.take_over(self.make_ready(self.network))
        except Exception as error:
            logger.exception("the network cannot be made ready for run %s", self.uid)
            self.trouble = f"no network for this run: {error}"

    def make_ready(self, network: Network) -> ReadyNetwork | None:
        """Return a network ready for this run's frames, or None where their shape is not known yet."""
        shape = self.start.get("shape")
        if not shape:
            return None
        return network.ready(self.metadata, (shape[0], shape[1]), self.start.get("probe_file"), self.batch)

    def take_over(self, ready: ReadyNetwork | None) -> None:
        """Go on with another network, from the next batch on.

        Raises
        ------
        InferenceError
            When its patches have pixels of another size than the image, in the middle of a run.
        """
        if ready is None:
            return
        if self.canvas.mosaic.canvas.size and not np.isclose(ready.scale, self._scale):
            raise InferenceError(
                f"its patches have pixels of {ready.scale:g} object pixels, this image has {self._scale:g}; it serves "
                "from the next run on"
            )
        self._scale = self.start["scale"] = ready.scale
        self._ready, self.trouble = ready, ""
        self.confidence = Confidence(ready.noise, ready.standard)

    # frames -----------------------------------------------------------------------------------------------------------

    def process(self, frames: Iterable[RawFrame]) -> None:
        """Take frames through gate, network and mosaic; none of them can stop the run.

        While the network is at one batch, the one before goes into the mosaic. The gate waits for the network: it may
        have found another centre of the beam.
        """
        before: tuple[list[Passed], Future[Inferred]] | None = None
        coming = iter(frames)
        while some := list(itertools.islice(coming, self.batch)):
            if before is not None:
                wait([before[1]])
            batch = self._pass_gate(some)
            present = (batch, self._network_thread.submit(self._infer, batch)) if batch else None
            if before is not None:
                self._take(*before)
            before = present
        if before is not None:
            self._take(*before)

    def _pass_gate(self, frames: list[RawFrame]) -> list[Passed]:
        passed: list[Passed] = []
        for frame in frames:
            self.counts.began = self.counts.began or frame.time
            if self._ready is None and frame.pixels.ndim == 2:
                self.prepare((frame.pixels.shape[0], frame.pixels.shape[1]))
            try:
                if self._ready is None:
                    raise Refused("no network")
                gate = self._ready.gate
                passed.append(
                    (frame, gate.corner_px(frame.y, frame.x), gate.prepare(frame.pixels), gate.saturated_share)
                )
            except Refused as reason:
                self.counts.refuse(str(reason), frame.index)
        return passed

    def _infer(self, batch: list[Passed]) -> Inferred:
        if self._ready is None:
            raise InferenceError("there is no network for this run")
        stack = np.stack([counts for _, _, counts, _ in batch])
        return stack, *self._ready(stack)

    def _take(self, batch: list[Passed], inferred: Future[Inferred]) -> None:
        """Put what the network has made of a batch into the mosaic."""
        if self.confidence is None:
            raise InferenceError("there is no network for this run")
        try:
            stack, patches, misfits = inferred.result()
        except Exception as error:
            if len(batch) > 1:  # find the one that the network cannot take
                for one in batch:
                    self._take([one], self._network_thread.submit(self._infer, [one]))
                return
            logger.exception("the network failed on frame %d", batch[0][0].index)
            self.trouble = f"the network failed: {error}"
            self.counts.refuse("network failed", batch[0][0].index)
            return
        if self.canvas.mosaic.canvas.size == 0:
            self._reserve_field(patches)
        lost = np.array([share for _, _, _, share in batch], np.float32)
        trust = self.confidence.of(stack, misfits, lost, patches.confidence)
        placed = self._place(batch, patches, misfits, trust)
        self._residuals = np.append(self._residuals, misfits)[-200:]
        self.counts.inferred += len(placed)
        self.canvas.touched()
        self.counts.ended = self._pace.done([frame.time for frame in placed])

    def _place(
        self, batch: list[Passed], patches: Patches, misfits: npt.NDArray[np.float32], trust: npt.NDArray[np.float32]
    ) -> list[RawFrame]:
        """Put patches into the mosaic; return the frames whose patches are in it."""
        usable = np.asarray(np.isfinite(patches.phase).all(axis=(1, 2)))
        if patches.amplitude is not None:
            usable &= np.isfinite(patches.amplitude).all(axis=(1, 2))
        top = float(patches.weight.max())
        weight = (patches.weight / top if top > 0 else patches.weight).astype(np.float32)
        mosaic, placed = self.canvas.mosaic, []
        for k, (frame, corner, _, _) in enumerate(batch):
            if not usable[k]:
                self.counts.refuse("network gave no finite patch", frame.index)
                continue
            row, column = ((c + o) / patches.scale for c, o in zip(corner, patches.offset, strict=True))
            if not mosaic.reserve((row, column), patches.phase.shape[1:]):
                self.counts.refuse("position far outside", frame.index)
                self.trouble = self.trouble or mosaic.refusal
                continue
            amplitude = None if patches.amplitude is None else patches.amplitude[k]
            known = float(trust[k]) if np.isfinite(trust[k]) else 1.0
            agreement = mosaic.add(patches.phase[k], amplitude, weight, (row, column), float(misfits[k]), known)
            if self.confidence is not None:
                self.confidence.compare(agreement)
            placed.append(frame)
        return placed

    def _reserve_field(self, patches: Patches) -> None:
        """Make the canvas as large as the scan is planned, so that the live image does not change its size."""
        extents = self.start.get("extents")
        if self._ready is None or not extents:
            return
        corners = np.array([self._ready.gate.corner_px(extents[0][k], extents[1][k]) for k in (0, 1)])
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
        return self._scale * ((self._ready.gate.pixel_size_m if self._ready is not None else None) or 1.0)

    def figures(self, dropped: int) -> dict[str, Any]:
        """Return counts, rates, latencies and trust under the names of :class:`LiveStatus`."""
        p50, p95 = self._pace.latencies_ms()
        known = self._residuals[np.isfinite(self._residuals)]
        trusted, doubt = (None, "") if self.confidence is None else self.confidence.verdict()
        return {
            "run_uid": self.uid,
            **self.counts.figures(dropped),
            "latency_ms_p50": p50,
            "latency_ms_p95": p95,
            "residual": float(np.median(known)) if len(known) else None,
            "confidence": None if self.confidence is None else self.confidence.median,
            "trusted": trusted,
            "doubt": doubt,
        }

    def rate(self) -> float:
        """Return the frames per second of the last two seconds."""
        return self._pace.rate()

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
        maps = mosaic.shown(1, mosaic.plane())
        origin = np.array([mosaic.field[0], mosaic.field[2]]) * self.mosaic_pixel
        result |= {
            "state": state,
            "exit_status": self.start.get("exit_status"),
            "seconds": round(seconds, 4),
            "frames_per_second": round(counts.inferred / seconds, 2) if seconds > 0 else 0.0,
            "mosaic_shape": list(maps.shape[1:]),
            "message": self.trouble,
            "mosaic": str(path),
        }
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial, phase=maps[0], amplitude=maps[1], coverage=maps[2], residual=maps[3], confidence=maps[4],
            origin=origin, pixel_size=self.mosaic_pixel, run_uid=self.uid,
            ptychography=json.dumps(self.start["ptychography"]),
        )  # fmt: skip
        partial.replace(path)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1))
        partial.replace(path.with_suffix(".json"))
        self._files.close()
        self._network_thread.shutdown()
        return result
