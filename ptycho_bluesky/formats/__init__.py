"""Files in and out: measurements and results, in our own formats and in those of other programs.

``load_dataset`` and ``read_reconstruction`` tell the format by the content; ``save_dataset`` and
``write_reconstruction`` write the one that is asked for. ``docs/reference/formats.md`` says what each format holds, and
how its conventions are met.
"""

from ptycho_bluesky.formats._hdf5 import Hdf5Frames
from ptycho_bluesky.formats._identify import KNOWN_FORMATS, KNOWN_RESULTS, FileKind, identify
from ptycho_bluesky.formats._joined import JoinedFrames
from ptycho_bluesky.formats._load import DatasetFormat, load_dataset, save_dataset
from ptycho_bluesky.formats._result import ResultFormat, read_reconstruction, save_together, write_reconstruction
from ptycho_bluesky.formats._view import FrameView

__all__ = [
    "KNOWN_FORMATS",
    "KNOWN_RESULTS",
    "DatasetFormat",
    "FileKind",
    "FrameView",
    "Hdf5Frames",
    "JoinedFrames",
    "ResultFormat",
    "identify",
    "load_dataset",
    "read_reconstruction",
    "save_dataset",
    "save_together",
    "write_reconstruction",
]
