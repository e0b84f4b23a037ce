"""The compiled passes against the torch module."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_bluesky.inference.backends import BackendOptions, WholeEngine, probe_engine
from ptycho_bluesky.inference.backends._physics import ProbePhysics, can_do
from ptycho_bluesky.inference.backends._steps import strips_of


def torch_says(network, frames, probe, good, monkeypatch):
    """What the layers are shown, and the patches, by the torch module."""
    shown = {}
    for name in ("correct", "settle"):
        function = getattr(network, name)

        def listening(images, function=function, name=name):
            shown[name] = images.numpy().copy()
            return function(images)

        monkeypatch.setattr(network, name, listening)
    with torch.inference_mode():
        late = network(torch.from_numpy(frames), torch.from_numpy(probe)[None], torch.from_numpy(good)[None])[1]
    return shown, late.numpy()


def test_transformer_is_shown_the_same_images(network, probe, good, frames, monkeypatch):
    lit = frames[[0, 1, 2, 3, 4]]
    shown, _ = torch_says(network, lit, probe, good, monkeypatch)
    tokens, way = ProbePhysics(network.sizes, probe, good, 2).prepare(lit)
    assert way.state.lit.all()
    for channel in range(10):
        gap = np.abs(way.images[:, channel] - shown["correct"][:, channel]).max()
        assert gap < 2e-4 * max(1, shown["correct"][:, channel].std()), channel
    unshuffled = torch.nn.functional.pixel_unshuffle(torch.from_numpy(way.images), network.sizes.patch)
    np.testing.assert_array_equal(tokens, unshuffled.flatten(2).transpose(1, 2).numpy())


def test_patches_and_misfits_are_those_of_the_module(network, probe, good, frames):
    exact = WholeEngine(network, probe, good, BackendOptions(name="torch", precision="f32"), frames)(frames)
    made = probe_engine(network, probe, good, BackendOptions(name="torch", precision="f32", threads=2))(frames)
    light = (np.abs(probe) ** 2).sum(axis=0)
    light /= light.sum()
    one, other = (m.amplitude * np.exp(1j * m.phase) for m in (made, exact))
    assert np.sqrt((np.abs(one - other) ** 2 * light).sum(axis=(1, 2))).max() < 1e-3
    assert not made.phase[5].any()  # a frame without a count
    assert not made.amplitude[5].any()
    assert made.misfit[5] == 1
    waves = np.fft.fft2(probe * other[:, None], norm="ortho")
    model = np.fft.fftshift(np.sqrt((np.abs(waves) ** 2).sum(axis=1)), axes=(1, 2))
    for k in (0, 1, 6):
        measured = np.sqrt(frames[k])
        seen = [values[good] for values in (measured, model[k])]
        explained = (seen[0] @ seen[1]) ** 2 / ((seen[0] @ seen[0]) * (seen[1] @ seen[1]))
        assert made.misfit[k] == pytest.approx(np.sqrt(1 - explained), abs=2e-3)


def test_misfit_of_the_true_object_is_that_of_photon_noise(network, probe):
    n = probe.shape[-1]
    everywhere, rng = np.ones((n, n), bool), np.random.default_rng(2)
    patches = np.exp(1j * rng.normal(size=(2, n, n)) * 0.3).astype(np.complex64)
    mean = np.fft.fftshift((np.abs(np.fft.fft2(probe * patches[:, None], norm="ortho")) ** 2).sum(axis=1), axes=(1, 2))
    physics = ProbePhysics(network.sizes, probe, everywhere, 2)
    assert (physics.misfits((1e6 * mean).astype(np.float32), patches) < 2e-3).all()
    assert (physics.misfits((1e6 * mean).astype(np.float32), patches[::-1].copy()) > 0.1).all()


def test_strips_hold_sixteen_columns_each():
    waves = (np.arange(32 * 32).reshape(32, 32) * (1 + 2j)).astype(np.complex64)
    strips = strips_of(waves)
    assert strips.shape == (2, 32, 2, 16)
    np.testing.assert_array_equal(strips[1, 5, 0], waves[5, 16:].real)
    np.testing.assert_array_equal(strips[1, 5, 1], waves[5, 16:].imag)


@pytest.mark.parametrize(("size", "yes"), [(64, True), (96, True), (48, False), (352, False)])
def test_sizes_that_the_passes_take(size, yes):
    assert can_do(size) is yes
