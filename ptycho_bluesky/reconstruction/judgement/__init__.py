"""How good a reconstruction is: ring correlation, and what two halves of the data agree on."""

from ptycho_bluesky.reconstruction.judgement._frc import RingCorrelation, fourier_ring_correlation
from ptycho_bluesky.reconstruction.judgement._halves import HalfDataResult, half_data_frc, half_data_sets
from ptycho_bluesky.reconstruction.judgement._uncertainty import EnsembleKind, Uncertainty, uncertainty

__all__ = [
    "EnsembleKind",
    "HalfDataResult",
    "RingCorrelation",
    "Uncertainty",
    "fourier_ring_correlation",
    "half_data_frc",
    "half_data_sets",
    "uncertainty",
]
