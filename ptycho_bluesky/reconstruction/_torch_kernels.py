"""The kernel set in plain torch: any device; a batch of frames at a time."""

from __future__ import annotations

import numpy as np
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import hilbert_order
from ptycho_bluesky.reconstruction._kernels import Steps
from ptycho_bluesky.reconstruction._problem import Model, Problem, Subpixel

__all__ = ["TorchKernels", "exit_waves", "project", "to_detector", "to_sample", "update"]


def _patch_index(corners: torch.Tensor, size: int, width: int) -> torch.Tensor:
    """Return (B, H, W), places of each patch's pixels in the flattened object."""
    side = torch.arange(size, device=corners.device)
    inside = side[:, None] * width + side[None]
    return (corners[:, 0] * width + corners[:, 1])[:, None, None] + inside


def exit_waves(obj: torch.Tensor, probes: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return (B, M, H, W), probes (B, M, H, W) times the object's patches at `index` (B, H, W)."""
    return probes * obj.reshape(-1)[index][:, None]


def to_detector(waves: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
    """Propagate unitarily; an empty transfer (0, 0) means the far field, zero frequency at the corner."""
    if not transfer.numel():
        waves = torch.fft.fft2(waves, norm="ortho")
    else:
        waves = torch.fft.ifft2(torch.fft.fft2(waves) * transfer)
    return waves


def to_sample(waves: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
    """Propagate back; inverse and adjoint of :func:`to_detector`."""
    if not transfer.numel():
        waves = torch.fft.ifft2(waves, norm="ortho")
    else:
        waves = torch.fft.ifft2(torch.fft.fft2(waves) * transfer.conj())
    return waves


def _modulus(waves: torch.Tensor) -> torch.Tensor:
    return (waves.real**2 + waves.imag**2).sum(dim=1).sqrt()


def project(waves: torch.Tensor, amplitude: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return waves (B, M, H, W) with the measured modulus, and ``sum | modulus - amplitude |``.

    A negative amplitude marks a bad pixel: the model's value stays, and counts for no error.
    """
    modulus, bad = _modulus(waves), amplitude < 0
    error = torch.where(bad, 0, (modulus - amplitude).abs()).sum(dtype=torch.float64)
    ratio = torch.where(bad, 1, amplitude / (modulus + 1e-6))
    return waves * ratio[:, None], error


def update(
    obj: torch.Tensor,
    probes: torch.Tensor,
    classes: torch.Tensor,
    index: torch.Tensor,
    waves: torch.Tensor,
    steps: Steps,
) -> None:
    """Move obj (Y, X) and probes (C, M, H, W) towards the projected waves (B, M, H, W), in place.

    rPIE (Maiden, Johnson and Li, Optica 4, 736 (2017), eq. 19), summed over the batch. Where frames of a batch
    overlap, the sum of their weights takes the place of the regularised weight as soon as it is the larger one: no
    pixel overshoots. For a batch of one frame this is the sequential rule of the CPU kernels.
    """
    mine, patches = probes[classes], obj.reshape(-1)[index]
    delta = waves - mine * patches[:, None]
    power = (mine.real**2 + mine.imag**2).sum(dim=1)
    peak = power.amax()
    numerator, weight = torch.zeros_like(obj).reshape(-1), torch.zeros_like(obj.real).reshape(-1)
    flat = index.reshape(-1)
    numerator.index_add_(0, flat, (mine.conj() * delta).sum(dim=1).reshape(-1))
    weight.index_add_(0, flat, power.reshape(-1))
    alpha = steps.alpha_object
    weight = torch.maximum((1 - alpha) * weight + alpha * peak, weight + 1e-30)
    obj += (steps.object * numerator / weight).reshape(obj.shape)
    if steps.probe == 0:
        return
    gradient, weight = torch.zeros_like(probes), torch.zeros_like(probes[:, 0].real)
    gradient.index_add_(0, classes, patches.conj()[:, None] * delta)
    weight.index_add_(0, classes, patches.real**2 + patches.imag**2)
    alpha = steps.alpha_probe
    weight = torch.maximum((1 - alpha) * weight + alpha, weight)
    probes += steps.probe * gradient / weight[:, None]


class TorchKernels:
    """Batches of frames that lie far apart on the sample, so that a batch acts almost like frames one by one.

    Hilbert order is cut into as many ranges as a batch has frames; a batch takes one frame of each. The sum over a
    batch is not bit-equal from run to run on a GPU (atomic additions); on the CPU it is.
    """

    def __init__(self, problem: Problem, device: str, threads: int | None = None, batch: int | None = None) -> None:
        try:
            self._device = torch.device(device)
            torch.empty(1, device=self._device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ReconstructionError(
                f"device {device!r} cannot be used ({str(error).splitlines()[0]}); allowed are 'cpu' and what torch "
                "finds on this machine, such as 'cuda' or 'cuda:1'"
            ) from error
        self.device, self.problem = str(self._device), problem
        count = len(problem.amplitude)
        self.batch = max(1, min(batch or (8 if self._device.type == "cpu" else 32), count))
        self.name = f"torch, batches of {self.batch}"
        self._threads = threads
        self._amplitude = torch.from_numpy(problem.amplitude).to(self._device)
        self._transfer = torch.from_numpy(np.ascontiguousarray(problem.transfer)).to(self._device)
        self._ranges = np.array_split(hilbert_order(problem.corners), self.batch)

    def _order(self, rng: np.random.Generator) -> list[np.ndarray]:
        columns = [rng.permutation(part) for part in self._ranges]
        return [np.array([c[i] for c in columns if i < len(c)]) for i in range(len(columns[0]))]

    def _tensors(self, model: Model, subpixel: Subpixel) -> tuple[torch.Tensor, ...]:
        arrays = model.object.copy(), subpixel.spread(model.probe), subpixel.corners, subpixel.classes
        return tuple(torch.from_numpy(np.ascontiguousarray(a)).to(self._device) for a in arrays)

    @torch.inference_mode()
    def sweep(self, model: Model, subpixel: Subpixel, steps: Steps, rng: np.random.Generator) -> tuple[Model, float]:
        """Update the model with every frame once; return it with the R-factor seen on the way."""
        self._use_threads()
        obj, probes, corners, classes = self._tensors(model, subpixel)
        error = torch.zeros((), dtype=torch.float64, device=self._device)
        for batch in self._order(rng):
            chosen = torch.from_numpy(batch).to(self._device)
            group = classes[chosen]
            index = _patch_index(corners[chosen], probes.shape[-1], obj.shape[-1])
            waves = to_detector(exit_waves(obj, probes[group], index), self._transfer)
            waves, seen = project(waves, self._amplitude[chosen])
            error += seen
            update(obj, probes, group, index, to_sample(waves, self._transfer), steps)
        visits = np.bincount(subpixel.classes, minlength=len(probes))
        probe = subpixel.gather(probes.cpu().numpy()[None], visits[None])
        return Model(obj.cpu().numpy(), probe), float(error) / self.problem.total

    @torch.inference_mode()
    def r_factor(self, model: Model, subpixel: Subpixel) -> float:
        """Return the R-factor over all frames, with the best global scale."""
        self._use_threads()
        obj, probes, corners, classes = self._tensors(model, subpixel)

        def sums(factor: float) -> tuple[float, float, float]:
            total = torch.zeros(3, dtype=torch.float64, device=self._device)
            for start in range(0, len(corners), self.batch):
                chosen = slice(start, start + self.batch)
                index = _patch_index(corners[chosen], probes.shape[-1], obj.shape[-1])
                waves = to_detector(exit_waves(obj, probes[classes[chosen]], index), self._transfer)
                amplitude = self._amplitude[chosen]
                good = amplitude >= 0
                modulus, measured = _modulus(waves)[good].double(), amplitude[good].double()
                absolute = (factor * modulus - measured).abs().sum()
                total += torch.stack([absolute, (modulus * measured).sum(), (modulus**2).sum()])
            return tuple(total.tolist())

        _, cross, power = sums(1.0)
        return sums(cross / max(power, 1e-30))[0] / self.problem.total

    def _use_threads(self) -> None:
        if self._threads is not None and self._device.type == "cpu" and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
