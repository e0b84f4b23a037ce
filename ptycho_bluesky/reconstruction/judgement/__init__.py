"""How good a reconstruction is: ring correlation, and what two halves of the data agree on."""

from ptycho_bluesky.reconstruction.judgement._frc import RingCorrelation, fourier_ring_correlation

__all__ = ["RingCorrelation", "fourier_ring_correlation"]
