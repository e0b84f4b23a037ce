"""Orthogonal probe relaxation: how the probe's variation from frame to frame is found and kept orthogonal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._model import Model, Variation
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._batch_model import Light, ModelTensors
from ptycho_bluesky.reconstruction.kernels._torch import power

__all__ = ["VariationUpdate", "with_variation"]

RIDGE = 0.05
"""Of a frame's equations for its weights, in units of their mean diagonal."""


def with_variation(problem: Problem, rank: int) -> Model:
    """Return the model to begin with: that of the problem with a variation of that rank, zero as far as it has none.

    Raises
    ------
    ReconstructionError
        When scans with probes of their own are reconstructed together.
    """
    model = problem.start
    if not rank:
        return model
    if len(model.probe) > 1:
        raise ReconstructionError(
            f"opr is {rank} and there are {len(model.probe)} probes; a variation belongs to one probe: leave opr out, "
            "or reconstruct the scans one by one"
        )
    modes, weights = (
        np.zeros((rank, *model.probe.shape[-2:]), np.complex64),
        np.zeros((len(model.corners), rank), np.float32),
    )
    modes[0] = model.probe[0, 0]
    if model.variation is not None:
        known = min(rank, len(model.variation.modes))
        modes[:known], weights[:, :known] = model.variation.modes[:known], model.variation.weights[:, :known]
    return replace(model, variation=Variation(modes, weights))


class VariationUpdate:
    """One epoch of alternating least squares for the variation ``sum_r weights[k, r] modes[r]`` of the first mode.

    The first variation mode is the first probe mode itself, so that its weight is the frame's change of amplitude. In
    the epoch that finds further modes for the first time, these are sketched: random mixtures of the frames' residual
    probes span what these have in common (Halko, Martinsson and Tropp, SIAM Review 53, 217 (2011)).

    Odstrcil et al., Optics Express 24, 8360 (2016).

    Parameters
    ----------
    tensors:
        The model; its weights move with each batch, its modes in :meth:`apply`.
    step:
        In units of the best one.
    rng:
        Of the sketch.
    """

    def __init__(self, tensors: ModelTensors, step: float, rng: np.random.Generator) -> None:
        modes, weights, varied = tensors.modes, tensors.weights, tensors.varied
        if modes is None or weights is None or varied is None:
            raise ReconstructionError("the model has no variation to be updated; begin with_variation")
        self._tensors, self._step = tensors, step
        self._modes, self._weights, self._varied = modes, weights, varied
        self._new = ~(power(modes).sum(dim=(1, 2)) > 0)
        sketch = torch.from_numpy(rng.normal(size=tuple(weights.shape))).to(weights)
        self._mixing = sketch if bool(self._new.any()) else None
        self._numerator = torch.zeros_like(varied)
        self._weight = torch.zeros_like(varied.real)
        self._seen = torch.zeros_like(weights[:, :1])

    def add(self, frames: torch.Tensor, residual: torch.Tensor, light: Light) -> None:
        """Move the weights of a batch's frames by their residual waves (B, M, H, W), and keep what the modes need."""
        tensors, mine = self._tensors, self._tensors.of_frame[frames]
        each = torch.arange(len(frames), device=frames.device)
        gradient, bright = torch.zeros_like(residual[:, :1]), torch.zeros_like(residual[:, 0].real)
        tensors.waves.add_probe(gradient, bright, residual[:, :1].contiguous(), tensors.object, each, light.corners)
        basis = self._varied[mine]
        lit = basis * bright[:, None]
        real = _real(basis)
        normal = real @ _real(lit).transpose(1, 2)
        cross = (real @ _real(gradient).transpose(1, 2))[:, :, 0]
        diagonal = normal.diagonal(dim1=1, dim2=2)
        ridge = RIDGE * diagonal + 1e-6 * diagonal.mean() + (diagonal == 0)
        moves = torch.linalg.solve(normal + torch.diag_embed(ridge), cross)
        self._weights[frames] += self._step * moves
        self._seen[frames] = 1
        mixing = self._weights[frames] if self._mixing is None else self._mixing[frames]
        self._numerator.index_add_(0, mine, mixing[:, :, None, None] * gradient)
        self._weight.index_add_(0, mine, mixing[:, :, None, None] ** 2 * bright[:, None])

    def apply(self) -> None:
        """Move the modes and bring all into its standard form."""
        weight, numerator = self._tensors.gather_weight(self._weight)[0], self._tensors.gather(self._numerator)[0]
        self._weights *= self._seen  # those of frames that others see are theirs to tell
        self._tensors.sums("the variation", weight, numerator, self._weights)
        peak = weight.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
        moves = numerator / (weight + 0.1 * peak)
        if self._mixing is None:
            self._modes[1:] += self._step * moves[1:]
        else:
            self._modes[self._new] = moves[self._new]
        self.standardise()

    def standardise(self) -> None:
        """Leave what a variation does as it is; make modes and weights orthogonal, modes on the probe's scale.

        A part of a mode along i times the probe is a phase that no frame can tell, and what weights are on average
        belongs to the probe, which has moved by itself: both are taken out.
        """
        probe, weights = self._tensors.probe[0, 0], self._weights
        weights -= weights.mean(dim=0)
        power_of_probe = power(probe).sum()
        along = (probe.conj() * self._modes).sum(dim=(1, 2)) / power_of_probe
        rest = (self._modes - along[:, None, None] * probe)[1:]
        weights[:, 0] = weights @ along.real
        self._modes[0] = probe
        if not len(rest):
            return
        flat = torch.view_as_real(rest).flatten(1)
        size, mixing = torch.linalg.eigh(flat @ flat.T)
        root = size.clamp_min(1e-12 * float(size.amax().clamp_min(1e-30))).sqrt()
        units = (mixing / root).T @ flat
        u, s, v = torch.linalg.svd(weights[:, 1:] @ (mixing * root), full_matrices=False)
        turned = torch.view_as_complex((v @ units).reshape(*rest.shape, 2).contiguous())
        self._modes[1:] = turned * power_of_probe.sqrt()
        weights[:, 1:] = u * s / power_of_probe.sqrt()


def _real(waves: torch.Tensor) -> torch.Tensor:
    """Return waves (B, R, H, W) as real vectors (B, R, 2 H W)."""
    return torch.view_as_real(waves).flatten(2)
