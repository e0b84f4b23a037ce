"""Each runtime computes what torch computes, or says why it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference import PtychoNN, PtychoNNPhase
from ptycho_bluesky.inference.backends import BackendOptions, Deviation, exported, open_backend, plain_engine
from ptycho_bluesky.inference.backends import _export as export
from ptycho_bluesky.inference.backends._export import check_deviation, key_of
from ptycho_bluesky.inference.backends._onnxruntime import CPU, CUDA, TENSORRT, providers_for
from ptycho_bluesky.inference.backends._torch import TorchBackend, reference

RUNTIMES = [("torch", "f32", 1e-6), ("torch", "bf16", 0.1), ("openvino", "f32", 1e-3), ("openvino", "bf16", 0.06),
            ("onnxruntime", "f32", 1e-4)]  # fmt: skip


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(3)
    return PtychoNNPhase(4, 2).eval()


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return np.random.default_rng(0).poisson(3, (3, 1, 32, 32)).astype(np.float32)


class Phase(nn.Module):
    """The phase alone, as engines ask for it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.network(frames)[0]


@pytest.mark.parametrize(("name", "precision", "bound"), RUNTIMES)
def test_output_is_torch_s_for_any_number_of_frames(small, batch, name, precision, bound):
    network = Phase(small)
    backend = open_backend(network, batch, BackendOptions(name=name, precision=precision))
    assert (backend.name, backend.precision) == (f"{name}-cpu", precision)
    assert backend.deviation.share < bound
    for count in (1, 3):
        found, wanted = backend(batch[:count])[0], reference(network, batch[:count])[0]
        assert found.shape == wanted.shape
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < 10 * bound * wanted.std() + 1e-6


def test_two_heads_come_in_order(batch):
    torch.manual_seed(1)
    network, good = PtychoNN(4, 2).eval(), np.ones((32, 32), bool)
    wanted = plain_engine(network, good)(batch[:, 0])
    for name in ("openvino", "onnxruntime"):
        made = plain_engine(network, good, None, BackendOptions(name=name, precision="f32", threads=2))(batch[:, 0])
        np.testing.assert_allclose(made.phase, wanted.phase, atol=1e-4)
        np.testing.assert_allclose(made.amplitude, wanted.amplitude, atol=1e-4)
        assert made.misfit is None


def test_int8_needs_frames_once_and_keeps_what_it_learned(small, batch, home):
    options, network = BackendOptions(name="openvino", precision="int8"), Phase(small)
    with pytest.raises(InferenceError, match="measured frames"):
        open_backend(network, batch, options)
    made = open_backend(network, batch, options, np.repeat(batch, 4, axis=0))
    assert 0 < made.deviation.share < 0.3
    again = open_backend(network, batch, options)  # without frames
    np.testing.assert_allclose(again(batch)[0], made(batch)[0], atol=1e-6)
    assert len(list((home / "backends").glob("*-int8.xml"))) == 1


def test_an_export_is_written_once_and_by_content(small, batch, home):
    first = exported(Phase(small), batch)
    assert exported(Phase(small), batch) == first
    other = PtychoNNPhase(4, 2).eval()
    assert key_of(Phase(other), batch) != key_of(Phase(small), batch)
    assert [path.name for path in (home / "backends").iterdir()] == [first.name]  # nothing half-written


def test_a_file_that_holds_another_network_is_refused(small, batch):
    path, other = exported(Phase(small), batch), exported(Phase(PtychoNNPhase(4, 2).eval()), batch)
    path.write_bytes(other.read_bytes())
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(InferenceError, match="differs from torch"):
            open_backend(Phase(small), batch, BackendOptions(name=name, precision="f32"))


@pytest.mark.parametrize(("name", "module"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime")])
def test_a_missing_runtime_names_the_extra(small, batch, monkeypatch, name, module):
    def gone(asked: str) -> None:
        if asked == module:
            raise ImportError(asked)
        raise AssertionError(asked)

    monkeypatch.setattr(export.importlib, "import_module", gone)
    with pytest.raises(InferenceError, match=r"install the extra 'edge'"):
        open_backend(Phase(small), batch, BackendOptions(name=name))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "torch", "precision": "int8"}, "openvino"),
        ({"name": "torch", "device": "cuda"}, "no CUDA device"),
        ({"name": "openvino", "precision": "f16"}, "bf16 or int8"),
        ({"name": "onnxruntime", "precision": "bf16"}, "f32"),
    ],
)
def test_what_a_runtime_has_not_is_said(small, batch, options, text):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InferenceError, match=text):
        open_backend(Phase(small), batch, BackendOptions(**options))


def test_a_name_may_bring_its_precision():
    assert BackendOptions.model_validate({"name": "openvino:bf16"}) == BackendOptions(name="openvino", precision="bf16")
    with pytest.raises(ValidationError):
        BackendOptions.model_validate({"name": "openvino:f12"})


class Hungry(nn.Module):
    """Takes no more than `room` frames at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.calls = room, []

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(frames))
        if len(frames) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return 2 * frames


def test_out_of_memory_means_smaller_batches_from_then_on(batch):
    frames = np.concatenate([batch] * 4)[:11]
    backend = TorchBackend(Hungry(3), batch, "f32")
    np.testing.assert_array_equal(backend(frames)[0], 2 * frames)
    assert backend.largest == 2
    calls = backend._network.calls
    calls.clear()
    backend(frames)
    assert max(calls) == 2


def test_one_frame_that_does_not_fit_is_an_error(batch):
    backend = TorchBackend(Hungry(3), batch, "f32")
    backend._network.room = 0
    with pytest.raises(InferenceError, match=r"not enough memory for one frame .*Tried to allocate"):
        backend(batch)


def test_providers_from_the_best_to_the_cpu():
    every = {TENSORRT, CUDA, CPU}
    assert [name for name, _ in providers_for(every, "f16", "auto")] == [TENSORRT, CUDA, CPU]
    assert providers_for(every, "f16", "auto")[0][1]["trt_fp16_enable"] is True
    assert [name for name, _ in providers_for(every, "f32", "cpu")] == [CPU]
    assert [name for name, _ in providers_for({CUDA, CPU}, "f32", "cuda")] == [CUDA, CPU]
    for available, precision, device in (({CPU}, "f32", "cuda"), ({CUDA, CPU}, "f16", "auto"), (every, "bf16", "auto")):
        with pytest.raises(InferenceError, match=r"onnxruntime|ONNX Runtime"):
            providers_for(available, precision, device)


def test_deviation_is_that_of_the_worst_output():
    wanted = np.array([0.0, 2.0]), np.array([0.0, 2.0])
    found = Deviation.between((np.array([0.0, 2.0]), np.array([0.0, 2.2])), wanted)
    assert (found.max, found.rms, found.spread) == pytest.approx((0.2, 0.2 / np.sqrt(2), 1.0))
    with pytest.raises(InferenceError, match="differs from torch"):
        check_deviation("x", "f32", found)
