"""The networks, their files, and what a predictor does with frames of all kinds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError, InferenceError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat, phase_correlation
from ptycho_bluesky.inference import (
    Model,
    ProbeViTModel,
    PtychoNN,
    PtychoNNModel,
    PtychoNNPhase,
    infer,
    load_model,
)
from ptycho_bluesky.inference._fitting import Fitting, fit_probe, window
from ptycho_bluesky.inference._predictors import _Level
from ptycho_bluesky.inference._vit import believable_pixels
from ptycho_bluesky.optics import (
    DetectorModel,
    siemens_star,
    simulate_dataset,
    zone_plate_probe,
)

OBJECT = 500
GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=75e-6)


@pytest.fixture(scope="module")
def shipped() -> ProbeViTModel:
    return load_model()


def zone_plate(size: int, defocus_m: float = 300e-6) -> np.ndarray:
    pixel = GEOMETRY.pixel_size_m(size)
    return zone_plate_probe(
        size,
        pixel,
        GEOMETRY.wavelength_m,
        diameter_m=180e-6,
        outermost_zone_m=50e-9,
        central_stop_m=60e-6,
        defocus_m=defocus_m,
    )[None]


def star_scan(photons: float = 5e5, field_m: float = 1.2e-6, faults: bool = True) -> tuple[PtychoDataset, np.ndarray]:
    obj = siemens_star((OBJECT, OBJECT))
    detector = DetectorModel(dead_fraction=0.001, hot_fraction=0.0005) if faults else DetectorModel()
    pattern = fermat(field_m, field_m, 0.25e-6).moved((1e-6, 1e-6))  # beside the star's finest part
    built, design = zone_plate(128, 312e-6), zone_plate(128)
    return simulate_dataset(obj, built, pattern, GEOMETRY, photons, detector=detector, probe_guess=design), obj


# the published family -----------------------------------------------------------------------------------------------


def test_published_sizes():
    assert sum(p.numel() for p in PtychoNNPhase().parameters()) == 733_921
    assert sum(p.numel() for p in PtychoNN().parameters()) == 1_247_074


@pytest.mark.data
def test_published_weights_load_key_for_key():
    folder = os.environ.get("PTYCHO_BLUESKY_DATA")
    if folder is None:
        pytest.skip("PTYCHO_BLUESKY_DATA is not set")
    path = Path(folder) / "ptychonn_26id_phase.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert list(PtychoNNPhase().state_dict()) == list(state)
    model = load_model(path)
    assert isinstance(model, PtychoNNModel)
    assert isinstance(model.network, PtychoNNPhase)
    y, x = np.indices((128, 128)) - 64
    mean = 200 * np.exp(-np.hypot(y, x) / 12) * (1 + 0.5 * np.cos(x / 5))
    frames = np.random.default_rng(0).poisson(mean, (2, 128, 128)).astype(np.float32)
    patches = model.for_probe(None, None, 128)(frames)
    assert patches.amplitude is None
    golden = [-0.175, 0.6459, -0.9644]
    assert [float(patches.phase.mean()), float(patches.phase.std()), float(patches.phase[1, 70, 60])] == pytest.approx(
        golden, abs=2e-3
    )


@pytest.mark.parametrize(("network", "size", "heads"), [(PtychoNNPhase(8), 128, 1), (PtychoNN(8), 64, 2)])
def test_state_dict_is_recognised(tmp_path, network, size, heads):
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, tmp_path / "weights.pth")
    model = load_model(tmp_path / "weights.pth")
    assert type(model.network) is type(network)
    assert isinstance(model, Model)
    patches = model.for_probe(zone_plate(128), None, 128)(np.ones((3, 128, 128), np.float32))
    assert patches.phase.shape == (3, size, size)
    assert np.abs(patches.phase).max() <= np.pi
    assert (patches.amplitude is None) == (heads == 1)
    assert patches.scale == 1  # the whole frame, binned
    assert patches.weight.max() == 1


# fitting ------------------------------------------------------------------------------------------------------------


@given(have=st.integers(4, 40), size=st.integers(2, 40))
@settings(deadline=None, max_examples=50)
def test_window_keeps_the_centre(have, size):
    image = np.zeros((1, have, have))
    image[0, have // 2, have // 2] = 1
    fitted = window(image, size)
    assert fitted.shape == (1, size, size)
    assert fitted[0, size // 2, size // 2] == 1


@pytest.mark.parametrize(("given_size", "binning"), [(128, 1), (128, 2), (64, 1), (48, 1), (256, 2)])
def test_fitted_probe_makes_the_fitted_frame(given_size, binning):
    probe = zone_plate(128, 120e-6 if binning > 1 else 300e-6)
    probe = Fitting(128, given_size).probe(probe)  # the same beam on a detector of another size
    fitting = Fitting(given_size, 64, binning)
    frame = np.fft.fftshift(np.abs(np.fft.fft2(probe[0])) ** 2)
    there = np.sqrt(fitting.frames(frame[None].astype(np.float32))[0])
    fitted = fitting.probe(probe)
    here = np.abs(np.fft.fftshift(np.fft.fft2(fitted[0])))
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.97
    assert np.sum(np.abs(fitted) ** 2) == pytest.approx(1, abs=1e-5)
    assert fitting.scale * 64 + 2 * fitting.offset[0] == pytest.approx(given_size, abs=1)


def test_small_beam_is_binned_and_large_one_cropped():
    assert fit_probe(zone_plate(128, 60e-6), 128, 64).binning == 2
    assert fit_probe(zone_plate(128, 300e-6), 128, 64).binning == 1


def test_beam_wider_than_the_crop_is_refused(small):
    rng = np.random.default_rng(0)
    speckle = (rng.standard_normal((1, 128, 128)) + 1j).astype(np.complex64)
    with pytest.raises(InferenceError, match=r"keeps .* of the beam"):
        small.for_probe(speckle, None, 128)


def test_masked_pixels_stay_masked_after_binning():
    mask = np.zeros((64, 64), bool)
    mask[10, 20] = True
    good = Fitting(64, 32, 2).good(mask)
    assert not good[5, 10]
    assert good.sum() == 32 * 32 - 1


# predictors ---------------------------------------------------------------------------------------------------------


def test_shapes_and_refusals(small):
    probe = zone_plate(64)
    predict = small.for_probe(probe, 1e-8, 64)
    patches = predict(np.ones((20, 64, 64), np.float32))
    assert patches.phase.shape == patches.amplitude.shape == (20, 32, 32)
    assert patches.phase.dtype == np.float32
    assert patches.weight.shape == (32, 32)
    assert predict(np.ones((0, 64, 64), np.float32)).phase.shape == (0, 32, 32)
    with pytest.raises(InferenceError, match=r"made for \(B, 64, 64\)"):
        predict(np.ones((2, 48, 48), np.float32))
    with pytest.raises(InferenceError, match="needs the probe"):
        small.for_probe(None, None, 64)
    with pytest.raises(InferenceError, match="probe has shape"):
        small.for_probe(probe[0], None, 64)
    with pytest.raises(InferenceError, match="sums to"):
        small.for_probe(probe * np.nan, None, 64)
    with pytest.raises(InferenceError, match="mask has shape"):
        small.for_probe(probe, None, 64, mask=np.zeros((3, 3), bool))


def test_a_batch_is_its_frames(small):
    frames = np.random.default_rng(3).poisson(5, (19, 32, 32)).astype(np.float32)
    predict = small.for_probe(zone_plate(128)[:, 48:80, 48:80], None, 32)
    together = predict(frames).amplitude
    alone = np.concatenate([predict(frames[k : k + 1]).amplitude for k in range(len(frames))])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_half_of_a_patch_s_slope_is_kept():
    x = np.arange(32, dtype=np.float32) - 16
    y = x[:, None]
    share = np.exp(-(x**2 + y**2) / 40)
    phase, wanted = (0.02 * x - 0.04 * y)[None], (0.01 * x - 0.02 * y)[None]
    np.testing.assert_allclose(_Level(share, 0.5)(phase), wanted, atol=1e-3)


def test_hot_pixels_are_not_believed():
    frames = torch.ones(1, 16, 16) * 100
    frames[0, 3, 4], frames[0, 0, 0], frames[0, 8, 8] = 60_000, 1e6, 300
    believed = believable_pixels(frames)
    assert believed.sum() == 256 - 2
    assert not believed[0, 3, 4]
    assert not believed[0, 0, 0]


def weighted_change(a, b) -> float:
    """Rms phase difference, radians, where there is light, the free constant removed."""
    turn = np.exp(1j * (a.phase - b.phase))
    mean = (turn * a.weight).sum((1, 2), keepdims=True)
    return float(
        np.sqrt((np.angle(turn / np.exp(1j * np.angle(mean))) ** 2 * a.weight).sum() / a.weight.sum() / len(turn))
    )


@pytest.mark.parametrize("factor", [0.25, 0.5, 2, 4])
def test_counts_hardly_matter(shipped, factor):
    data, _ = star_scan(faults=False)
    frames = np.asarray(data.frames[:16], np.float32)
    predict = shipped.for_probe(data.probe, None, 128)
    assert weighted_change(predict(frames), predict(frames * factor)) < 0.05


def test_faults_hardly_matter(shipped):
    data, _ = star_scan(faults=False)
    frames = np.asarray(data.frames[:16], np.float32)
    predict = shipped.for_probe(data.probe, None, 128)
    hot = frames.copy()
    hot[:, 60, 80] = 65_535
    assert weighted_change(predict(frames), predict(hot)) < 0.05
    mask = np.zeros((128, 128), bool)
    mask[50:53, 70:73] = True
    holed = np.where(mask, 9_999, frames).astype(np.float32)
    assert weighted_change(predict(frames), shipped.for_probe(data.probe, None, 128, mask=mask)(holed)) < 0.1


def test_blank_frames_show_nothing(shipped):
    frames = np.zeros((2, 128, 128), np.float32)
    frames[1, 64, 64] = 1
    patches = shipped.for_probe(zone_plate(128), None, 128)(frames)
    assert (patches.amplitude[0] == 0).all()
    assert np.isfinite(patches.phase).all()
    assert np.isfinite(patches.amplitude).all()


# the shipped model and whole datasets -------------------------------------------------------------------------------


def test_shipped_files_are_small():
    import ptycho_bluesky.inference

    files = list((Path(ptycho_bluesky.inference.__file__).parent / "weights").iterdir())
    assert [f.name for f in files] == ["default.safetensors"]
    assert sum(f.stat().st_size for f in files) < 4_000_000


def test_shipped_model_tells_its_history(shipped):
    assert shipped.name == "default"
    assert shipped.notes["validation"]["validation_correlation"] > 0.6
    assert shipped.notes["options"]["seed"] == 0
    assert len(shipped.content_hash) == 64


@pytest.mark.parametrize("photons", [1e5, 1e6])
def test_shipped_model_images_a_star(shipped, photons, tmp_path):
    data, obj = star_scan(photons)
    seen: list[int] = []
    result = infer(data, shipped, on_progress=lambda done, of: seen.append(done))
    report = result.report()
    assert seen[-1] == result.frames == len(data) == report["frames"]
    assert report["latency_ms_p95"] >= report["latency_ms_p50"] > 0
    assert json.dumps(report)
    step = result.pixel_size / data.pixel_size_m
    assert step == 2
    first = [o / data.pixel_size_m + OBJECT // 2 - 64 for o in result.origin]
    rows, columns = (
        np.rint(f + step * np.arange(n)).astype(int) for f, n in zip(first, result.phase.shape, strict=True)
    )
    truth = np.angle(obj)[np.clip(rows, 0, OBJECT - 1)[:, None], np.clip(columns, 0, OBJECT - 1)[None]]
    phase = np.where(result.coverage > 0.5, result.phase, np.nan)
    assert phase_correlation(phase, truth) > 0.85
    result.save(tmp_path / "image.npz")
    with np.load(tmp_path / "image.npz") as saved:
        assert saved["phase"].shape == result.phase.shape
        assert json.loads(str(saved["report"]))["backend"] == "torch-cpu"


def test_infer_counts_unusable_frames(shipped):
    data, _ = star_scan(field_m=0.5e-6)
    frames = np.array(data.frames[:], np.float32)
    frames[0], frames[1, 3, 3], frames[2, 5, 5] = 0, np.nan, -1
    result = infer(replace(data, frames=frames, mask=None), shipped, batch=2)
    assert result.refused == 3
    assert result.frames == len(data) - 3
    with pytest.raises(InferenceError, match="gave no image"):
        infer(replace(data, frames=np.zeros_like(frames)), shipped)


def test_infer_stops_when_asked(shipped):
    data, _ = star_scan(field_m=0.8e-6)
    done: list[int] = []
    result = infer(data, shipped, batch=2, on_progress=lambda n, _: done.append(n), should_stop=lambda: len(done) >= 2)
    assert result.frames == 4


def test_infer_refuses_the_near_field(shipped):
    near = Geometry(energy_kev=10, distance_m=1, detector_pixel_m=1e-6, modality="near-field")
    data = PtychoDataset(np.ones((2, 32, 32)), np.zeros((2, 2)), near, "near-field", 1e-6)
    with pytest.raises(InferenceError, match="far field"):
        infer(data, shipped)
    with pytest.raises(DatasetError):
        infer(replace(data, positions=np.zeros((3, 2))), shipped)
