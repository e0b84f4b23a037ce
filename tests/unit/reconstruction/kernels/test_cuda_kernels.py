"""Sweeps of the fused kernels against those of plain torch; frames on a device in fewer bytes; what is launched how."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction import reconstruct
from ptycho_bluesky.reconstruction._amplitudes import MemoryAmplitudes
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction.engines import _batch_model
from ptycho_bluesky.reconstruction.kernels import Steps, _batches, kernels_for
from ptycho_bluesky.reconstruction.kernels import _frames as frames_there
from ptycho_bluesky.reconstruction.kernels import _launch as launching
from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels
from ptycho_bluesky.reconstruction.kernels._cuda import CudaWaves, waves_for
from ptycho_bluesky.reconstruction.kernels._cuda_kernels import CudaKernels
from ptycho_bluesky.reconstruction.kernels._frames import DeviceFrames, decoded, encoded, lossless_counts
from ptycho_bluesky.reconstruction.kernels._torch import TorchWaves

STEPS = Steps(object=0.8, probe=0.5, alpha_object=0.5, alpha_probe=1.0, find_shifts=True)


@pytest.fixture(scope="module")
def problem(star):
    """Few frames, in blocks that no batch length divides."""
    few = slice(None, None, 4)
    dataset = replace(star.dataset, frames=np.asarray(star.dataset.frames)[few], positions=star.dataset.positions[few])
    made = prepare(dataset, 2)
    return replace(made, amplitudes=MemoryAmplitudes(made.amplitudes.array, made.start.corners, block=10))


def swept(kernels, problem, divisions, epochs=1, steps=STEPS):
    model, rng = problem.start, np.random.default_rng(3)
    for _ in range(epochs):
        groups = problem.groups(model, divisions)
        result = kernels.sweep(model, groups, steps, rng)
        model = result.model
    return result


@pytest.mark.parametrize("divisions", [1, 2], ids=["whole pixels", "sub-pixel groups"])
def test_a_sweep_of_the_fused_kernels_is_that_of_plain_torch(cuda_waves, problem, divisions):
    waves = cuda_waves(torch.from_numpy(problem.transfer))
    mine = swept(CudaKernels(problem, waves, batch=3), problem, divisions)
    plain = swept(BatchKernels(problem, "cpu", threads=1, batch=3), problem, divisions)
    assert mine.error == pytest.approx(plain.error, rel=1e-4)
    for name in ("object", "probe"):
        a, b = getattr(mine.model, name), getattr(plain.model, name)
        assert np.linalg.norm(a - b) < 1e-3 * np.linalg.norm(b), name
    np.testing.assert_allclose(mine.shifts, plain.shifts, atol=0.01 * np.abs(plain.shifts).max())


def test_the_object_that_came_back_is_not_sent_again_and_another_one_is(host_launch, problem):
    waves = CudaWaves(torch.device("cpu"), torch.from_numpy(problem.transfer), host_launch)
    kernels = CudaKernels(problem, waves, batch=3)
    groups = problem.groups(problem.start, 1)

    def sweep(model):
        return kernels.sweep(model, groups, STEPS, np.random.default_rng(0))

    first = sweep(problem.start)
    again, afresh = sweep(first.model), sweep(replace(first.model, object=first.model.object.copy()))
    np.testing.assert_array_equal(again.model.object, afresh.model.object)
    np.testing.assert_array_equal(sweep(problem.start).model.object, first.model.object)
    assert not np.array_equal(first.model.object, again.model.object)


@pytest.mark.parametrize("kind", ["float16", "uint16"])
def test_smaller_types_of_frames_lead_to_the_same_place(host_launch, problem, kind):
    waves = CudaWaves(torch.device("cpu"), torch.from_numpy(problem.transfer), host_launch)
    small = swept(CudaKernels(problem, waves, kind, batch=3), problem, 1)
    full = swept(CudaKernels(problem, waves, "float32", batch=3), problem, 1)
    assert small.error == pytest.approx(full.error, rel=1e-3 if kind == "float16" else 1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([3.0, 1e3, 6e4]))
def test_counts_come_back_bit_for_bit_as_uint16_and_nearly_as_float16(seed, most):
    rng = np.random.default_rng(seed)
    amplitude = np.sqrt(rng.integers(0, int(most) + 1, (3, 5, 5)), dtype=np.float32)
    amplitude[:, 1, 2] = -1
    assert lossless_counts(amplitude)
    for kind, tolerance in (("float32", 0), ("uint16", 0), ("float16", 2**-11)):
        back = decoded(torch.from_numpy(encoded(amplitude, kind)), kind).numpy()
        assert back.dtype == np.float32 and (back[:, 1, 2] == -1).all()
        np.testing.assert_allclose(back, amplitude, rtol=tolerance)


def test_frames_that_are_no_counts_or_too_large_are_not_stored_as_uint16():
    assert not lossless_counts(np.full((1, 2, 2), 1.5, np.float32))
    assert not lossless_counts(np.full((1, 2, 2), 256, np.float32))
    with pytest.raises(ReconstructionError, match=r"data_type 'uint16' holds up to 65534 counts .* have 65536"):
        encoded(np.full((1, 2, 2), 256, np.float32), "uint16")
    with pytest.raises(ReconstructionError, match="data_type 'float16'"):
        encoded(np.full((1, 2, 2), 1e5, np.float32), "float16")


@pytest.mark.parametrize("free", [10**9, 0], ids=["resident", "streamed"])
@pytest.mark.parametrize("counted", [True, False])
def test_frames_of_a_gpu_stay_there_or_come_block_by_block_and_are_the_same(problem, monkeypatch, free, counted):
    monkeypatch.setattr(frames_there, "_free_bytes", lambda device: free)
    array = problem.amplitudes.array if counted else problem.amplitudes.array + np.float32(0.1)
    amplitudes = MemoryAmplitudes(array, problem.start.corners, block=10)
    frames = DeviceFrames(amplitudes, torch.device("cpu"))
    assert frames.kind == ("uint16" if counted else "float32")
    seen, places = [], set()
    for order in ([2, 0, 1], [1, 2]):
        for there in frames.load(order):
            back = decoded(there.stored, frames.kind)[torch.from_numpy(there.rows)]
            np.testing.assert_array_equal(back, array[there.frames])
            places.add((there.stored.data_ptr(), len(there.stored)))
            seen.append(len(there.frames))
    assert len(seen) == 5 and len(places) == 1  # a captured graph goes on reading at one address
    assert places.pop()[1] == (len(array) if free else max(len(block) for block in amplitudes.blocks))


class FakeCupy:
    """What the launcher uses of CuPy, which writes down what it is told."""

    def __init__(self) -> None:
        self.launched: list[tuple] = []
        self.asked: list[str] = []
        stream = SimpleNamespace(from_external=lambda torch_stream: nullcontext(torch_stream))
        self.cuda = SimpleNamespace(Device=nullcontext, Stream=stream, ExternalStream=lambda *_: nullcontext())

    def RawModule(self, code, options):
        assert "__global__" in code
        return SimpleNamespace(get_function=self._kernel)

    def _kernel(self, name):
        self.asked.append(name)
        return lambda grid, block, arguments: self.launched.append((name, grid, block, arguments))

    def from_dlpack(self, tensor):
        return np.from_dlpack(tensor)


def test_a_launch_passes_tensors_without_copies_and_numbers_in_32_bits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=7))
    cupy, tensor = FakeCupy(), torch.arange(4.0)
    launch = launching.CupyLauncher(cupy, torch.device("cuda:0"))
    for _ in range(2):
        launch("exit_waves", 12, tensor, 3, 0.5, None)
    assert cupy.asked == ["exit_waves"] and len(cupy.launched) == 2
    name, grid, block, (array, whole, real, null) = cupy.launched[0]
    assert (name, grid, block) == ("exit_waves", (12,), (256,))
    assert array.ctypes.data == tensor.data_ptr()
    assert (type(whole), type(real), type(null), int(null)) == (np.int32, np.float32, np.intp, 0)


def test_without_cupy_torch_does_the_work_and_says_once_what_is_missed(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cupy", None)
    launching.cupy_launcher.cache_clear()
    with caplog.at_level(logging.WARNING):
        made = [waves_for(torch.device("cuda", 5), torch.empty(0, 0)) for _ in range(2)]
    launching.cupy_launcher.cache_clear()
    assert all(isinstance(waves, TorchWaves) for waves in made)
    assert len(caplog.records) == 1 and "ptycho-bluesky[cuda12]" in caplog.text


def test_a_step_that_cannot_be_captured_is_launched_kernel_by_kernel(host_launch, problem, caplog, monkeypatch):
    def refuse(*_):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "Stream", refuse)
    waves = CudaWaves(torch.device("cpu"), torch.from_numpy(problem.transfer), host_launch)
    kernels = CudaKernels(problem, waves, batch=3)
    kernels._graphs = True  # as on a GPU
    found, plain = swept(kernels, problem, 1), swept(CudaKernels(problem, waves, batch=3), problem, 1)
    np.testing.assert_array_equal(found.model.object, plain.model.object)
    assert [record.message for record in caplog.records] == [
        "no CUDA graph (operation not permitted): each kernel is launched by itself"
    ]


def test_on_a_cpu_the_choice_stays_numba_or_torch(problem):
    assert kernels_for(problem, "cpu").name.startswith("numba")
    assert kernels_for(problem, "cpu", "torch").name == "torch, batches of 8"


@pytest.mark.parametrize("engine", ["lsqml", "ml", "dm", "raar"])
def test_batch_engines_get_with_raw_kernels_where_they_get_with_torch(host_launch, star, monkeypatch, engine):
    few = slice(None, None, 6)
    dataset = replace(star.dataset, frames=np.asarray(star.dataset.frames)[few], positions=star.dataset.positions[few])
    options = {"epochs": 2, "modes": 2, "threads": 1, "kernels": "torch"}
    plain = reconstruct(dataset, engine, options)

    def raw(device: torch.device, transfer: torch.Tensor) -> CudaWaves:
        return CudaWaves(device, transfer, host_launch)

    monkeypatch.setattr(_batches, "waves_for", raw)
    monkeypatch.setattr(_batch_model, "waves_for", raw)
    mine = reconstruct(dataset, engine, options)
    assert mine.provenance["kernels"].startswith("cuda, ") and plain.provenance["kernels"].startswith("torch, ")
    np.testing.assert_allclose(mine.errors, plain.errors, rtol=1e-3)
