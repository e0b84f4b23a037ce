"""What is measured: dataset, geometry, orientation, scan patterns, metadata, result. NumPy only.

Axes, once and for all: C order; frames (N, H, W) with rows down and columns to the right; positions (N, 2) are
(row, column) = (y, x) in metres, the place of the probe's centre on the sample; patch corner in pixels =
``(position - origin) / pixel_size``; probe (modes, H, W) and object (slices, Y, X) complex64; far field
``psi = fft2(P * O_patch)``, its zero frequency in the centre of a stored frame.
"""

from ptycho_bluesky.experiment._compare import align_phase, phase_contrast, phase_correlation
from ptycho_bluesky.experiment._dataset import Frames, ObjectGrid, PtychoDataset
from ptycho_bluesky.experiment._geometry import HC_KEV_M, Geometry, Modality
from ptycho_bluesky.experiment._hilbert import hilbert_order
from ptycho_bluesky.experiment._metadata import POSITION_UNITS_M, PtychographyMetadata
from ptycho_bluesky.experiment._metadata_parts import BeamInfo, EstimateInfo, PatternInfo, ProbeInfo, SourceInfo
from ptycho_bluesky.experiment._orientation import Orientation, orientations
from ptycho_bluesky.experiment._reconstruction import Reconstruction
from ptycho_bluesky.experiment.patterns import (
    PATTERNS,
    FlyPath,
    ScanPattern,
    concentric,
    fermat,
    from_positions,
    inside,
    jittered,
    lissajous,
    pattern_named,
    raster,
    region,
    snake,
    within,
)

__all__ = [
    "HC_KEV_M",
    "PATTERNS",
    "POSITION_UNITS_M",
    "BeamInfo",
    "EstimateInfo",
    "FlyPath",
    "Frames",
    "Geometry",
    "Modality",
    "ObjectGrid",
    "Orientation",
    "PatternInfo",
    "ProbeInfo",
    "PtychoDataset",
    "PtychographyMetadata",
    "Reconstruction",
    "ScanPattern",
    "SourceInfo",
    "align_phase",
    "concentric",
    "fermat",
    "from_positions",
    "hilbert_order",
    "inside",
    "jittered",
    "lissajous",
    "orientations",
    "pattern_named",
    "phase_contrast",
    "phase_correlation",
    "raster",
    "region",
    "snake",
    "within",
]
