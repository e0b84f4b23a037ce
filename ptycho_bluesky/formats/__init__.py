"""Files in and out: measurements from plain NPZ, tike's NPZ and CXI; results to HDF5.

``load_dataset`` tells the format by the content; ``save_dataset`` writes the plain NPZ that everyone can read;
``write_reconstruction`` and ``read_reconstruction`` keep results.
"""

from ptycho_bluesky.formats._hdf5 import Hdf5Frames
from ptycho_bluesky.formats._load import KNOWN_FORMATS, load_dataset, save_dataset
from ptycho_bluesky.formats._result import read_reconstruction, write_reconstruction
from ptycho_bluesky.formats._view import FrameView

__all__ = [
    "KNOWN_FORMATS",
    "FrameView",
    "Hdf5Frames",
    "load_dataset",
    "read_reconstruction",
    "save_dataset",
    "write_reconstruction",
]
