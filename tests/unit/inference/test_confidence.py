"""Which images may be believed: the package's network, simulated scans, and all that can be wrong with them."""

import numpy as np
import pytest

from ptycho_bluesky.inference import Mosaic, load_model
from ptycho_bluesky.inference._confidence import Confidence, Noise, Standard, learn_standard
from ptycho_bluesky.inference._mosaic import Agreement
from ptycho_bluesky.inference._simulation import as_built, random_design
from ptycho_bluesky.inference.backends import BackendOptions
from ptycho_bluesky.optics import FarField, random_specimen

N = 64
PHOTONS = 3e5
SEED = 16


def beam():
    rng = np.random.default_rng(SEED)
    return random_design(N, rng)


def defocused(probe, strength):
    k = np.fft.fftfreq(N) * N
    lens = np.exp(-1j * np.pi / N * strength * (k[:, None] ** 2 + k[None] ** 2))
    return np.fft.ifft2(np.fft.fft2(probe) * lens).astype(np.complex64)


def specimen(probe, rng):
    """A specimen of the training's kind with something to see everywhere."""
    light = (np.abs(probe) ** 2).sum(axis=0)
    light /= light.sum()
    while True:
        found = random_specimen((112, 112), rng, phase_rad=(0.6, 1.6))
        patches = np.stack([found[y : y + N, x : x + N] for y in (0, 24, 48) for x in (0, 24, 48)])
        mean, power = (light * patches).sum(axis=(1, 2)), (light * np.abs(patches) ** 2).sum(axis=(1, 2))
        if (1 - np.abs(mean) ** 2 / power).min() > 0.03:
            return found


def speckle(rng):
    """A specimen unlike all those: a rough surface."""
    k = np.fft.fftfreq(112)
    smooth = np.exp(-(k[:, None] ** 2 + k[None] ** 2) / 0.02)
    rough = np.fft.ifft2(np.fft.fft2(rng.standard_normal((112, 112))) * smooth).real
    return np.exp(2j * rough / rough.std()).astype(np.complex64)


def scan(sample, probe, rng, photons=PHOTONS):
    places = np.array([(y, x) for y in range(0, 48, 7) for x in range(0, 48, 7)]) + rng.integers(0, 2, (49, 2))
    patches = np.stack([sample[y : y + N, x : x + N] for y, x in places])
    intensity = (np.abs(FarField(N).forward(probe[None] * patches[:, None])) ** 2).sum(axis=1)
    intensity *= photons / (np.abs(probe) ** 2).sum()
    return places, rng.poisson(np.fft.fftshift(intensity, axes=(-2, -1))).astype(np.float32)


def judged(frames, places, probe):
    predictor = load_model("default").for_probe(probe, None, N, backend=BackendOptions(name="torch", precision="f32"))
    standard = learn_standard(predictor, predictor.fitting, probe, None)
    predictor.reset_centre()
    confidence, mosaic, values = Confidence(Noise(predictor.fitting.probe(probe)), standard), Mosaic(), []
    for first in range(0, len(frames), 16):
        stack = frames[first : first + 16]
        made = predictor(stack)
        values.append(confidence.of(stack, made.misfit, np.zeros(len(stack), np.float32), made.confidence))
        for k, (y, x) in enumerate(places[first : first + 16]):
            confidence.compare(mosaic.add(made.phase[k], made.amplitude[k], made.weight, (float(y), float(x))))
    return *confidence.verdict(), np.concatenate(values), predictor


@pytest.fixture(scope="module")
def right():
    rng = np.random.default_rng(5)
    probe = beam()
    built = as_built(probe, rng, 0.2)
    places, frames = scan(specimen(probe, rng), built, rng)
    return probe, built, places, frames


def test_a_right_probe_is_trusted(right):
    probe, _, places, frames = right
    trusted, doubt, values, _ = judged(frames, places, probe)
    assert (trusted, doubt) == (True, "")
    assert np.median(values) > 0.7


@pytest.mark.parametrize("strength", [0.35, -0.5])
def test_a_defocused_probe_is_not(right, strength):
    probe, _, places, frames = right
    trusted, doubt, _, _ = judged(frames, places, defocused(probe, strength))
    assert trusted is False and "defocus" in doubt


@pytest.mark.parametrize("what", ["frames transposed", "positions swapped", "one sign wrong"])
def test_swapped_axes_and_signs_are_not(right, what):
    probe, _, places, frames = right
    if what == "frames transposed":
        frames = np.ascontiguousarray(frames.transpose(0, 2, 1))
    places = {"positions swapped": places[:, ::-1], "one sign wrong": places * [1, -1] + [0, 48]}.get(what, places)
    trusted, doubt, _, _ = judged(frames, places, probe)
    assert trusted is False and "contradict" in doubt


def test_a_sample_of_another_class_is_not(right):
    probe, built, _, _ = right
    rng = np.random.default_rng(3)
    places, frames = scan(speckle(rng), built, rng)
    trusted, doubt, values, _ = judged(frames, places, probe)
    assert trusted is False and doubt
    assert np.median(values) < 0.6, "and no patch of it is counted as a good one"


def test_a_beam_off_the_centre_is_brought_back_or_not_trusted(right):
    probe, _, places, frames = right
    trusted, _, _, predictor = judged(np.roll(frames, (4, 0), (1, 2)), places, probe)
    assert trusted is True and predictor.centre_shift == (4, 0), "the network looks for the centre itself"
    noise, flux = Noise(predictor.fitting.probe(probe)), frames.sum(axis=(1, 2))
    confidence = Confidence(noise, Standard())
    patches = predictor(np.roll(frames, (4, 0), (1, 2)))  # of the network that was told where the centre is
    waves = FarField(N).forward(probe[None] * (patches.amplitude * np.exp(1j * patches.phase))[:, None])
    model = np.fft.fftshift(np.sqrt((np.abs(waves) ** 2).sum(axis=1)), axes=(-2, -1))
    measured = np.sqrt(np.roll(frames, (4, 0), (1, 2)))
    share = (measured * model).sum(axis=(1, 2)) ** 2 / ((model**2).sum(axis=(1, 2)) * flux)
    confidence.of(frames, np.sqrt(1 - share), np.zeros(len(frames), np.float32), None)
    assert confidence.verdict()[0] is False, "where nobody brings it back"


def test_without_a_probe_nothing_is_trusted():
    confidence = Confidence(None, Standard())
    values = confidence.of(
        np.ones((2, 8, 8), np.float32), np.full(2, np.nan, np.float32), np.zeros(2, np.float32), None
    )
    trusted, doubt = confidence.verdict()
    assert np.isnan(values).all() and trusted is False and "probe is not known" in doubt
    assert confidence.median is None


def test_a_network_that_does_not_know_the_beam_is_found_out_before_the_first_frame():
    assert Confidence(Noise(beam()), Standard(error_rad=0.5, empty_rad=0.4)).verdict()[0] is False
    assert Confidence(Noise(beam()), Standard(error_rad=0.2, empty_rad=0.4)).verdict()[0] is None


def test_noise_alone_leaves_no_excess_at_any_dose():
    rng, probe = np.random.default_rng(0), beam()
    share = np.fft.fftshift((np.abs(FarField(N).forward(probe)) ** 2).sum(axis=0))
    share /= share.sum()
    noise = Noise(probe)
    for photons in (1e3, 1e5, 1e7):
        frames = rng.poisson(np.repeat(share[None] * photons, 40, 0)).astype(np.float32)
        misfit = np.sqrt((np.sqrt(frames) - np.sqrt(share * photons)) ** 2 / photons).astype(np.float32)
        misfit = np.sqrt((misfit**2).sum(axis=(1, 2)))
        assert np.median(noise.excess(misfit, frames.sum(axis=(1, 2)))) < 0.35 * misfit.mean()
        assert np.median(noise.empty(frames)) < 0.35 * misfit.mean()


def test_what_is_wrong_with_single_frames_lowers_their_confidence():
    noise, good = Noise(beam()), np.full(60, 0.01, np.float32)
    rng = np.random.default_rng(0)
    frames = rng.poisson(20, (60, N, N)).astype(np.float32)
    frames[50] /= 100  # the beam was gone
    frames[51] *= 100  # a burst
    frames[52, 3, 4] = 2e4  # a hot pixel
    lost, own = np.zeros(60, np.float32), np.ones(60, np.float32)
    lost[53], own[54] = 0.008, 0.1
    misfit = good.copy()
    misfit[55] = 0.9
    values = Confidence(noise, Standard()).of(frames, misfit, lost, own)
    assert values[:50].min() > 0.95
    assert values[50:56].max() < 0.35, values[50:56]


def test_agreements_that_say_nothing_are_left_out():
    confidence = Confidence(Noise(beam()), Standard())
    for _ in range(50):
        confidence.compare(Agreement(0.0, 0.0))
        confidence.compare(Agreement(0.001, 0.001))
    assert confidence.contradiction is None, "noise on an empty sample"
    for _ in range(100):
        confidence.compare(Agreement(0.03, 0.02))
    assert confidence.contradiction == pytest.approx(1.5)
