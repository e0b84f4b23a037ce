"""The live image shown elsewhere: as pvAccess records, in Tiled. In a process of their own, which nobody waits for."""

from ptycho_bluesky.stream.outputs._mirror import Mirror
from ptycho_bluesky.stream.outputs._open import OUTPUTS, Output, check_outputs, open_output
from ptycho_bluesky.stream.outputs._pieces import ChangingImages
from ptycho_bluesky.stream.outputs._pva import PvaOutput
from ptycho_bluesky.stream.outputs._serve import serve
from ptycho_bluesky.stream.outputs._tiled import TiledOutput

__all__ = [
    "OUTPUTS",
    "ChangingImages",
    "Mirror",
    "Output",
    "PvaOutput",
    "TiledOutput",
    "check_outputs",
    "open_output",
    "serve",
]
