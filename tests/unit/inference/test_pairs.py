"""Training pairs of a scan, the loss behind the forward model, and trainings on measured frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction, fermat
from ptycho_bluesky.inference import Conditions, ProbeViTSizes, TrainingOptions, TrainingPairs, load_model, train
from ptycho_bluesky.inference._batches import Batches, batch_of
from ptycho_bluesky.inference._losses import amplitude_error
from ptycho_bluesky.inference._simulation import simulate_shard
from ptycho_bluesky.inference._training import train_network
from ptycho_bluesky.optics import random_specimen, simulate_dataset, truth_on_grid, zone_plate_probe

SIZES = ProbeViTSizes(size=32, width=16, depth=1, heads=2, features=2, hidden=8, iterations=1)
OPTIONS = TrainingOptions(steps=4, batch=4, shard=16, repeats=4, validate_every=2, validation_frames=16)


@pytest.fixture(scope="module")
def scan() -> tuple[PtychoDataset, Reconstruction]:
    """A scan of 64 x 64 pixels, and its perfect reconstruction."""
    geometry = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=150e-6)
    pixel = geometry.pixel_size_m(64)
    optics = {"diameter_m": 120e-6, "outermost_zone_m": 80e-9, "central_stop_m": 40e-6, "defocus_m": 150e-6}
    probe = zone_plate_probe(64, pixel, geometry.wavelength_m, **optics)[None]
    obj = random_specimen((160, 160), np.random.default_rng(2))
    mask = np.zeros((64, 64), bool)
    mask[40:42, 20] = True
    data = replace(simulate_dataset(obj, probe, fermat(1e-6, 1e-6, 0.25e-6), geometry, 1e6), mask=mask)
    grid = data.object_grid()
    coverage = np.zeros(grid.shape, np.float32)
    light = (np.abs(probe[0]) ** 2 > 0.01 * (np.abs(probe[0]) ** 2).max()).astype(np.float32)
    for row, column in np.rint(grid.corners).astype(int):
        part = coverage[row : row + 64, column : column + 64]
        np.maximum(part, light, out=part)
    rec = Reconstruction(
        object=truth_on_grid(obj, grid, 64)[None],
        probe=probe.astype(np.complex64) * np.float32(1e3 / np.linalg.norm(probe)),
        positions=data.positions,
        coverage=coverage,
        origin=grid.origin,
        pixel_size_m=data.pixel_size_m,
        errors=np.array([0.1]),
        r_factor=0.1,
        phase_contrast_rad=1.0,
        engine="truth",
    )
    return data, rec


def test_objects_of_pairs_explain_their_frames(scan):
    data, rec = scan
    pairs = TrainingPairs.of(data, rec, size=32)
    assert 0 < len(pairs) <= len(data)
    assert pairs.size == 32
    assert not pairs.good.all()
    batch = batch_of(pairs, np.arange(len(pairs)))
    right = float(amplitude_error(batch.objects, batch.frames, batch.probes, batch.good))
    flat = float(amplitude_error(torch.ones_like(batch.objects), batch.frames, batch.probes, batch.good))
    other = float(amplitude_error(batch.objects.roll(1, 0), batch.frames, batch.probes, batch.good))
    assert right < 0.08  # noise, and what lies beyond the crop
    assert right < 0.5 * min(flat, other)
    share = (np.abs(pairs.probes[0]) ** 2).sum(axis=0)
    mean = (share * pairs.objects).sum(axis=(1, 2))
    np.testing.assert_allclose(np.angle(mean), 0, atol=1e-4)


def test_amplitudes_do_not_know_phase_and_scale(scan):
    pairs = TrainingPairs.of(*scan, size=32)
    batch = batch_of(pairs, np.arange(4))
    a = amplitude_error(batch.objects, batch.frames, batch.probes, batch.good)
    b = amplitude_error(3j * batch.objects, 7 * batch.frames, batch.probes, batch.good)
    assert float(a) == pytest.approx(float(b), rel=1e-3)


def test_pairs_are_joined_and_split(scan):
    pairs = TrainingPairs.of(*scan, size=32)
    both = TrainingPairs.joined([pairs, pairs.subset(slice(0, 3))])
    assert len(both) == len(pairs) + 3
    assert both.owner.tolist() == [0] * len(pairs) + [1] * 3
    train_on, held_out = both.split(0.25)
    assert len(train_on) + len(held_out) == len(both)
    np.testing.assert_array_equal(held_out.frames[-1], both.frames[-1])
    conditions = pairs.conditions()
    assert conditions.probe.shape == (1, 32, 32)
    assert conditions.photons[0] <= np.median(pairs.frames.sum(axis=(1, 2))) <= conditions.photons[1]
    blind = TrainingPairs.of(scan[0], probe=scan[1].probe, size=32)
    assert blind.objects is None
    with pytest.raises(InferenceError, match="cannot be joined"):
        TrainingPairs.joined([pairs, blind])


def test_pairs_that_do_not_fit_are_refused(scan):
    data, rec = scan
    with pytest.raises(InferenceError, match="positions"):
        TrainingPairs.of(data.subset(slice(0, 5)), rec)
    with pytest.raises(InferenceError, match="has no probe"):
        TrainingPairs.of(data)
    with pytest.raises(InferenceError, match="the probe is"):
        TrainingPairs.of(data, probe=np.ones((1, 32, 32), np.complex64))
    with pytest.raises(InferenceError, match="can be used"):
        TrainingPairs.of(replace(data, frames=np.zeros(data.frames.shape)), rec, size=32)
    with pytest.raises(InferenceError, match="pixels wide"):
        train_network(OPTIONS, SIZES, pairs=TrainingPairs.of(data, rec, size=64))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_share_of_simulated_batches(scan, share):
    pairs = TrainingPairs.of(*scan, size=32)
    options = OPTIONS.model_copy(update={"simulated_share": share})
    batches = Batches(options, 32, pairs.conditions(), pairs)
    known = {frame.tobytes() for frame in pairs.frames}
    measured = 0
    for step in range(8):
        monochrome = batches(step)
        turned_back = [np.swapaxes(f, 0, 1) if t else f for f in monochrome.frames.numpy() for t in (False, True)]
        sums = {round(float(f.sum())) for f in turned_back}
        measured += bool(sums & {round(float(np.frombuffer(k, np.float32).sum())) for k in known})
    batches.close()
    assert measured == round(8 * (1 - share))


def test_training_on_pairs_is_resumed_and_told(scan, tmp_path):
    pairs = TrainingPairs.of(*scan, size=32)
    whole = train(tmp_path / "a.safetensors", OPTIONS, SIZES, pairs=pairs)
    asked = iter(range(100))
    keep = {"pairs": pairs, "checkpoint": tmp_path / "c.pt"}
    train(tmp_path / "b.safetensors", OPTIONS, SIZES, should_stop=lambda: next(asked) >= 3, **keep)
    again = train(tmp_path / "b.safetensors", OPTIONS, SIZES, **keep)
    assert again.content_hash == whole.content_hash
    assert "measured: " in again.notes["data"]
    assert "simulated" in again.notes["data"]
    with pytest.raises(InferenceError, match=r"other .*pairs"):
        train(tmp_path / "b.safetensors", OPTIONS, SIZES, pairs=pairs.subset(slice(0, 9)), checkpoint=tmp_path / "c.pt")


def test_refinement_by_the_forward_model_lowers_the_misfit(scan, tmp_path):
    blind = TrainingPairs.of(scan[0], probe=scan[1].probe, size=32)
    options = TrainingOptions(steps=16, batch=8, simulated_share=0, validate_every=4, learning_rate=5e-3)
    model = train(tmp_path / "m.safetensors", options, SIZES, pairs=blind)
    losses = model.notes["curves"]["loss"]
    assert losses[-1] < 0.97 * losses[0]
    assert np.isnan(model.notes["validation"]["validation_correlation"])


def test_start_from_keeps_weights_and_says_so(scan, tmp_path):
    first = train(tmp_path / "a.safetensors", OPTIONS, SIZES)
    slow = OPTIONS.model_copy(update={"learning_rate": 1e-9, "steps": 1})
    second = train(tmp_path / "b.safetensors", slow, start_from=tmp_path / "a.safetensors")
    assert second.network.sizes == SIZES
    assert second.notes["start_from"] == first.content_hash
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)
    with pytest.raises(InferenceError, match="sizes"):
        train(tmp_path / "c.safetensors", slow, ProbeViTSizes(), start_from=tmp_path / "a.safetensors")
    assert load_model(tmp_path / "b.safetensors").notes["conditions"] is None


# simulated frames of one beamline -----------------------------------------------------------------------------------


def test_simulated_frames_are_made_in_the_beamline_s_pixels(scan):
    data, rec = scan
    mask = np.zeros((64, 64), bool)
    mask[30:34, 20] = True
    conditions = replace(Conditions.of(rec.probe, data), mask=mask, probe_error=0.0, jitter_px=0.0)
    shard = simulate_shard((1,), 32, 32, conditions)
    assert shard.frames.shape == (32, 32, 32)
    assert not shard.good[:, 14:18, 4].any()  # [30:34, 20] after the crop of 16 pixels
    assert (shard.frames[:, 14:18, 4] == 0).all()
    batch = batch_of(shard, np.arange(32))
    right = float(amplitude_error(batch.objects, batch.frames, batch.probes, batch.good))
    flat = float(amplitude_error(torch.ones_like(batch.objects), batch.frames, batch.probes, batch.good))
    assert right < 0.75 * flat


def test_motion_blurs_the_frames(scan):
    still = Conditions.of(scan[1].probe)
    a, b = (simulate_shard((1,), 16, 32, replace(still, blur_px=blur)) for blur in (0.0, 12.0))
    assert a.frames.shape == b.frames.shape
    assert not (a.frames == b.frames).all()


def test_conditions_are_checked(scan):
    data, rec = scan
    told = Conditions.of(rec.probe, data, contrast_rad=0.9)
    assert told.phase_rad == pytest.approx((0.3, 1.35))
    total = np.asarray(data.frames[:], float).sum(axis=(1, 2))
    assert told.photons[0] >= 0.9 * total.min()
    assert told.to_json()["bad_pixels"] == 2
    with pytest.raises(InferenceError, match="conditions of a beamline"):
        Conditions(rec.probe, photons=(0, 1), blur_px=-1.0)
    with pytest.raises(InferenceError, match="allowed is"):
        Conditions(rec.probe[0])
    with pytest.raises(InferenceError, match="frames are"):
        Conditions.of(rec.probe[:, :32, :32], data)
