"""From the documents of a run to frames with their positions, joined by the number of the frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import PtychographyMetadata

__all__ = ["FileSlice", "Frame", "FrameRange", "RunReader"]

HDF5_MIMETYPES = ("application/x-hdf5", "application/x-hdf5;type=array", "application/x-hdf")


@dataclass(frozen=True)
class FileSlice:
    """Rows ``start`` to ``stop`` of a dataset in an HDF5 file."""

    path: str
    dataset: str
    start: int
    stop: int

    def part(self, start: int, stop: int) -> FileSlice:
        """Return the rows `start` to `stop`, counted from this slice's first."""
        return FileSlice(self.path, self.dataset, self.start + start, self.start + stop)


@dataclass(frozen=True)
class Frame:
    """A frame whose pixels came in an Event."""

    index: int
    """Number of the frame in its run, from 0."""
    y: float
    x: float
    """Position as the devices give it, in ``metadata.position_unit``."""
    time: float
    pixels: npt.NDArray[Any]
    """As the detector delivers it, (H, W) if it is sound."""


@dataclass(frozen=True)
class FrameRange:
    """Consecutive frames that lie in a file."""

    index: int
    """Number of the first frame in its run, from 0."""
    frames: FileSlice
    y: FileSlice | list[float]
    x: FileSlice | list[float]
    """Positions: values from Events, or rows of a file."""

    def __len__(self) -> int:
        return self.frames.stop - self.frames.start


@dataclass
class _Axis:
    """What is known so far of one position axis: values from Events, slices of files."""

    values: dict[int, float] = field(default_factory=dict)
    slices: list[tuple[int, FileSlice]] = field(default_factory=list)

    def cover(self, index: int, stop: int) -> FileSlice | list[float] | None:
        """Return the positions from `index` on, as far as one source goes, up to `stop`."""
        if index in self.values:
            found = []
            while index < stop and index in self.values:
                found.append(self.values[index])
                index += 1
            return found
        for first, piece in self.slices:
            count = piece.stop - piece.start
            if first <= index < first + count:
                return piece.part(index - first, min(count, stop - first))
        return None


def _count(source: FileSlice | list[float]) -> int:
    return source.stop - source.start if isinstance(source, FileSlice) else len(source)


def _part(source: FileSlice | list[float], count: int) -> FileSlice | list[float]:
    return source.part(0, count) if isinstance(source, FileSlice) else source[:count]


class RunReader:
    """Joins frames and positions of one run, in the order in which they become complete.

    Give it every document of the run by :meth:`feed`. Pixels inside Events come out as :class:`Frame`; frames in a file
    come out as :class:`FrameRange` once their positions are known, wherever these are: in Events or in a file.

    Parameters
    ----------
    metadata:
        The run's ``ptychography`` block.
    """

    def __init__(self, metadata: PtychographyMetadata) -> None:
        self.metadata = metadata
        self.frame_shape: tuple[int, int] | None = None
        """(H, W) as the descriptor declares it; None before, or where it does not."""
        self._descriptors: set[str] = set()
        self._resources: dict[str, dict[str, Any]] = {}
        self._y, self._x = _Axis(), _Axis()
        self._pending: list[tuple[int, FileSlice]] = []
        self._external = False

    @property
    def unmatched(self) -> int:
        """Frames in files whose positions have not come."""
        return sum(piece.stop - piece.start for _, piece in self._pending)

    def feed(self, name: str, doc: dict[str, Any]) -> list[Frame | FrameRange]:
        """Return the frames that `doc` completes, in order.

        Raises
        ------
        DatasetError
            When the run declares its frames in a way that cannot be followed; the text says how, and what to do.
        """
        if name == "event":
            return (
                self._event(doc["seq_num"], doc["time"], doc["data"]) if doc["descriptor"] in self._descriptors else []
            )
        if name == "event_page" and doc["descriptor"] in self._descriptors:
            rows = zip(doc["seq_num"], doc["time"], strict=True)
            found = ((s, t, {key: v[k] for key, v in doc["data"].items()}) for k, (s, t) in enumerate(rows))
            return [item for row in found for item in self._event(*row)]
        if name == "descriptor" and doc.get("name", "primary") == "primary":
            self._descriptor(doc)
        elif name == "stream_resource":
            self._resources[doc["uid"]] = doc
        elif name == "stream_datum" and doc["descriptor"] in self._descriptors:
            return self._stream_datum(doc)
        return []

    def _descriptor(self, doc: dict[str, Any]) -> None:
        keys, wanted = doc["data_keys"], self.metadata
        needed = (wanted.frames_key, *wanted.position_keys)
        missing = [key for key in needed if key not in keys]
        if missing:
            raise DatasetError(
                f"stream 'primary' lacks the data keys {missing}, which the 'ptychography' block names; it has "
                f"{sorted(keys)}: give the devices to the plan, or mend frames_key and position_keys"
            )
        shape = [int(n) for n in keys[wanted.frames_key].get("shape") or [] if n is not None]
        if len(shape) > 2 and int(np.prod(shape[:-2])) != 1:
            raise DatasetError(
                f"data key {wanted.frames_key!r} holds {int(np.prod(shape[:-2]))} frames an event (shape {shape}); "
                "live inference needs one position for each frame: collect one frame an event"
            )
        if len(shape) >= 2:
            self.frame_shape = shape[-2], shape[-1]
        self._external = "external" in keys[wanted.frames_key]
        if not self._external and any("external" in keys[key] for key in wanted.position_keys):
            raise DatasetError(
                f"frames ({wanted.frames_key!r}) come inside Events but positions {wanted.position_keys} in a file; "
                "that join is not supported live: read the positions into the Events too"
            )
        self._descriptors.add(doc["uid"])

    def _event(self, seq_num: int, when: float, data: dict[str, Any]) -> list[Frame | FrameRange]:
        index, wanted = seq_num - 1, self.metadata
        y_key, x_key = wanted.position_keys
        if self._external:
            if y_key in data:
                self._y.values[index] = float(data[y_key])
            if x_key in data:
                self._x.values[index] = float(data[x_key])
            return list(self._join())
        pixels = np.asarray(data[wanted.frames_key])
        if pixels.ndim == 3 and pixels.shape[0] == 1:
            pixels = pixels[0]
        return [Frame(index, float(data[y_key]), float(data[x_key]), when, pixels)]

    def _stream_datum(self, doc: dict[str, Any]) -> list[Frame | FrameRange]:
        resource = self._resources.get(doc["stream_resource"])
        if resource is None:
            raise DatasetError(
                f"stream_datum {doc['uid']} names the stream_resource {doc['stream_resource']}, not seen"
            )
        key, wanted = resource["data_key"], self.metadata
        if key not in (wanted.frames_key, *wanted.position_keys):
            return []
        if resource["mimetype"] not in HDF5_MIMETYPES:
            raise DatasetError(
                f"data key {key!r} lies in a file of type {resource['mimetype']!r}; live inference reads "
                f"{HDF5_MIMETYPES[0]!r}: let the detector write HDF5"
            )
        address, parameters = urlparse(resource["uri"]), resource["parameters"]
        dataset = parameters.get("dataset") or parameters.get("path") or ""
        rows, numbers = doc["indices"], doc.get("seq_nums") or {}
        piece = FileSlice(unquote(address.path), str(dataset), int(rows["start"]), int(rows["stop"]))
        first = int(numbers["start"]) - 1 if numbers.get("start") else piece.start
        for wanted_key, axis in zip(wanted.position_keys, (self._y, self._x), strict=True):
            if key == wanted_key:
                axis.slices.append((first, piece))
        if key == wanted.frames_key:
            self._pending.append((first, piece))
        return list(self._join())

    def _join(self) -> Iterator[FrameRange]:
        """Yield what has become complete, and keep the rest."""
        pending, self._pending = self._pending, []
        for first, piece in pending:
            stop, index, gap = first + piece.stop - piece.start, first, first
            while index < stop:
                y, x = self._y.cover(index, stop), self._x.cover(index, stop)
                if y is None or x is None:
                    index += 1
                    continue
                if gap < index:
                    self._pending.append((gap, piece.part(gap - first, index - first)))
                count = min(_count(y), _count(x))
                frames = piece.part(index - first, index - first + count)
                yield FrameRange(index, frames, _part(y, count), _part(x, count))
                index += count
                gap = index
            if gap < stop:
                self._pending.append((gap, piece.part(gap - first, stop - first)))
