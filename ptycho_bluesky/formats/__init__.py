"""Files in and out: measurements from plain NPZ, tike's NPZ and CXI; results to HDF5.

``load_dataset`` tells the format by the content; ``save_dataset`` writes the plain NPZ that everyone can read.
"""

from ptycho_bluesky.formats._hdf5 import Hdf5Frames
from ptycho_bluesky.formats._load import KNOWN_FORMATS, load_dataset, save_dataset
from ptycho_bluesky.formats._view import FrameView

__all__ = ["KNOWN_FORMATS", "FrameView", "Hdf5Frames", "load_dataset", "save_dataset"]
