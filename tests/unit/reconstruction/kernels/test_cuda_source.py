"""Every CUDA kernel against plain torch in float64: its very source, on the CPU as C++ and on a GPU if there is one."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_bluesky.reconstruction.kernels._batches import rpie_update
from ptycho_bluesky.reconstruction.kernels._cuda import CudaWaves
from ptycho_bluesky.reconstruction.kernels._frames import encoded
from ptycho_bluesky.reconstruction.kernels._launch import source
from ptycho_bluesky.reconstruction.kernels._protocol import Steps
from ptycho_bluesky.reconstruction.kernels._torch import TorchWaves

NO_FRAME = 2
"""Frames at the end of each batch that only fill it up."""

shared = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Case:
    """A batch, in float64 on the CPU; `there` gives it to the kernels with frames of nothing behind it."""

    obj: torch.Tensor
    probes: torch.Tensor
    groups: torch.Tensor
    corners: torch.Tensor
    amplitude: torch.Tensor
    transfer: torch.Tensor
    background: torch.Tensor

    def reference(self) -> TorchWaves:
        return TorchWaves(torch.device("cpu"), self.transfer)

    @property
    def light(self) -> tuple[torch.Tensor, ...]:
        return self.obj, self.probes, self.groups, self.corners


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    size, modes, groups = draw(st.sampled_from([5, 8, 16, 21])), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    frames, bad, near = draw(st.sampled_from([1, 2, 7, 35])), draw(st.booleans()), draw(st.booleans())
    shape = size + draw(st.integers(0, 9)), size + draw(st.integers(0, 9))

    def field(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape))

    counts = rng.poisson(rng.gamma(2, 40, (frames, size, size)))
    amplitude = np.sqrt(counts)
    if bad:
        amplitude[:, rng.random((size, size)) < 0.2] = -1
    f = np.fft.fftfreq(size)
    transfer = np.exp(-9j * (f[:, None] ** 2 + 0.7 * f[None] ** 2)) if near else np.empty((0, 0), complex)
    corner = rng.integers(0, np.array(shape) - size + 1, (frames, 2))
    return Case(
        field(*shape), 3 * field(groups, modes, size, size), torch.from_numpy(rng.integers(0, groups, frames)),
        torch.from_numpy(corner), torch.from_numpy(amplitude), torch.from_numpy(transfer),
        torch.from_numpy(rng.gamma(1, 3, (size, size))),
    )  # fmt: skip


def single(tensor: torch.Tensor, waves: CudaWaves) -> torch.Tensor:
    """The tensor as the kernels want it."""
    if tensor.is_complex():
        tensor = tensor.to(torch.complex64)
    elif tensor.is_floating_point():
        tensor = tensor.float()
    return tensor.clone().to(waves.device)


def padded(tensor: torch.Tensor, value: int) -> torch.Tensor:
    return torch.cat([tensor, torch.full((NO_FRAME, *tensor.shape[1:]), value)])


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    """Relative error of all numbers together."""
    found = found.cpu().to(expected.dtype)
    off = torch.linalg.vector_norm(found - expected)
    assert off <= tolerance * torch.linalg.vector_norm(expected) + 1e-12, f"relative error {off}"


@shared
@given(case=cases())
def test_exit_waves(cuda_waves, case):
    waves = cuda_waves(case.transfer.to(torch.complex64))
    found = waves.exit_waves(*(single(t, waves) for t in case.light))
    close(found, case.reference().exit_waves(*case.light), 1e-6)


def test_a_frame_of_no_group_has_no_wave(cuda_waves):
    waves = cuda_waves(torch.empty(0, 0))
    one = torch.ones(2, 1, 4, 4, dtype=torch.complex64, device=waves.device)
    groups, corners = torch.tensor([-1, 1], device=waves.device), torch.zeros(2, 2, dtype=torch.long)
    found = waves.exit_waves(one[0, 0], one, groups, corners.to(waves.device))
    assert not found[0].any() and (found[1] == 1).all()


@shared
@given(case=cases())
def test_propagation_is_unitary_and_equal_to_the_references(cuda_waves, case):
    waves, plain = cuda_waves(case.transfer.to(torch.complex64)), case.reference()
    close(waves.to_detector(single(case.probes, waves)), plain.to_detector(case.probes), 1e-6)
    close(waves.to_sample(single(case.probes, waves)), plain.to_sample(case.probes), 1e-6)


@shared
@given(case=cases(), noise=st.sampled_from(["gaussian", "poisson"]), pedestal=st.booleans())
def test_projection_and_its_error(cuda_waves, case, noise, pedestal):
    waves, plain = cuda_waves(torch.empty(0, 0)), case.reference()
    there = plain.exit_waves(*case.light)
    background = case.background if pedestal else None
    expected, error = plain.project(there.clone(), case.amplitude, background, noise)
    found, seen = waves.project(
        single(there, waves), single(case.amplitude, waves), single(background, waves) if pedestal else None, noise
    )
    close(found, expected)
    close(seen, error)


@shared
@given(case=cases())
def test_sums_over_frames(cuda_waves, case):
    waves, plain = cuda_waves(torch.empty(0, 0)), case.reference()
    size, shape = case.probes.shape[-1], case.obj.shape
    difference = plain.exit_waves(*case.light) * 0.3j + 1
    obj, probes, groups, corners = (single(t, waves) for t in case.light)
    for name, other, start in (
        ("add_object", "probes", (torch.ones(shape, dtype=torch.complex128), torch.ones(shape).double())),
        ("add_probe", "obj", (torch.ones_like(case.probes), torch.ones(len(case.probes), size, size).double())),
    ):
        numerator, weight = (t.clone() for t in start)
        getattr(plain, name)(numerator, weight, difference, getattr(case, other), case.groups, case.corners)
        n, w = (single(t, waves) for t in start)
        getattr(waves, name)(n, w, single(difference, waves), probes if other == "probes" else obj, groups, corners)
        close(n, numerator)
        close(w, weight)


@shared
@given(case=cases(), shift=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)))
def test_shifts(cuda_waves, case, shift):
    waves, plain = cuda_waves(torch.empty(0, 0)), case.reference()
    slope = sum(s * g for s, g in zip(shift, torch.gradient(case.obj), strict=True)) if min(case.obj.shape) > 1 else 0
    difference = plain.exit_waves(slope, *case.light[1:]) + 0.1 * plain.exit_waves(*case.light)
    expected = plain.shifts(difference, *case.light)
    found = waves.shifts(single(difference, waves), *(single(t, waves) for t in case.light))
    close(found, expected, 2e-3)


@shared
@given(case=cases(), kind=st.sampled_from(["float32", "float16", "uint16"]), step=st.sampled_from([0.0, 0.4]))
def test_a_fused_step_is_rpie_of_the_batch_and_frames_of_nothing_change_nothing(cuda_waves, case, kind, step):
    waves, plain = cuda_waves(case.transfer.to(torch.complex64)), case.reference()
    steps = Steps(object=0.7, probe=step, alpha_object=0.3, alpha_probe=0.6)
    if kind == "float16":  # what is stored is what is expected
        case.amplitude = case.amplitude.half().double()
    before = plain.exit_waves(*case.light)
    projected, error = plain.project(plain.to_detector(before.clone()), case.amplitude)
    difference = plain.to_sample(projected) - before
    o, p = case.obj.clone(), case.probes.clone()
    rpie_update(plain, o, p, difference, case.groups, case.corners, steps)

    obj, probes = single(case.obj, waves), single(case.probes, waves)
    groups, corners = (padded(t, v).to(waves.device) for t, v in ((case.groups, -1), (case.corners, 0)))
    rows = padded(torch.arange(len(case.groups)).flip(0), -1).to(waves.device)
    stored = torch.from_numpy(encoded(case.amplitude.flip(0).float().numpy(), kind).copy()).to(waves.device)
    errors = torch.zeros(len(groups), dtype=torch.float64, device=waves.device)
    pace = torch.tensor([steps.object, steps.probe, steps.alpha_object, steps.alpha_probe], device=waves.device)
    numerator, weight, peak = torch.zeros_like(obj), torch.zeros_like(obj.real), torch.zeros(1, device=waves.device)
    there = waves.projected(waves.exit_waves(obj, probes, groups, corners), stored, kind, rows, errors)
    waves.subtract_exit_waves(there, obj, probes, groups, corners, numerator, weight, peak)
    close(there[:-NO_FRAME], difference)
    assert not there[-NO_FRAME:].any()
    waves.update_probe(probes, there, obj, groups, corners, pace)
    waves.update_object(obj, numerator, weight, peak, pace)
    close(errors[:-NO_FRAME], error)
    close(obj, o)
    close(probes, p)
    assert not numerator.any() and not weight.any() and not errors[-NO_FRAME:].any()


@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_the_source_compiles_for_gpus(architecture, tmp_path):
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not installed: the kernels cannot be compiled for a GPU")
    (tmp_path / "waves.cu").write_text(source())
    command = [compiler, "-ptx", f"-arch={architecture}", "-std=c++17", "-Werror", "all-warnings", "waves.cu"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "waves.ptx").read_text().count(".visible .entry") == source().count("__global__")
