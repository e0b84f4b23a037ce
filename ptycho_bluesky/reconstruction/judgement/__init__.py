"""How good a reconstruction is: what independent data agree on, how sure each pixel is, and a report that says so."""

from ptycho_bluesky.reconstruction.judgement._frc import RingCorrelation, fourier_ring_correlation
from ptycho_bluesky.reconstruction.judgement._halves import (
    HalfDataResult,
    as_reconstructed,
    half_data_frc,
    half_data_sets,
    made_with,
)
from ptycho_bluesky.reconstruction.judgement._panels import cropped, draw_scale_bar, scale_bar_m
from ptycho_bluesky.reconstruction.judgement._prediction import Patterns, compare_patterns
from ptycho_bluesky.reconstruction.judgement._prtf import TransferFunction, phase_retrieval_transfer
from ptycho_bluesky.reconstruction.judgement._report import report_figure, write_report
from ptycho_bluesky.reconstruction.judgement._residual import position_residual
from ptycho_bluesky.reconstruction.judgement._uncertainty import EnsembleKind, Uncertainty, uncertainty
from ptycho_bluesky.reconstruction.judgement._verdict import Finding, Judgement, judge, length_text

__all__ = [
    "EnsembleKind",
    "Finding",
    "HalfDataResult",
    "Judgement",
    "Patterns",
    "RingCorrelation",
    "TransferFunction",
    "Uncertainty",
    "as_reconstructed",
    "compare_patterns",
    "cropped",
    "draw_scale_bar",
    "fourier_ring_correlation",
    "half_data_frc",
    "half_data_sets",
    "judge",
    "length_text",
    "made_with",
    "phase_retrieval_transfer",
    "position_residual",
    "report_figure",
    "scale_bar_m",
    "uncertainty",
    "write_report",
]
