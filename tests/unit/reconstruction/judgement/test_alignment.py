"""What ptychography leaves free is taken away, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.optics import fourier_shift
from ptycho_bluesky.reconstruction.judgement._alignment import aligned

SIZE = 96


def specimen(strength: float = 0.3) -> Reconstruction:
    f = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None])
    field = np.fft.ifft2(np.fft.fft2(np.random.default_rng(0).normal(size=(SIZE, SIZE))) * np.exp(-((f / 0.06) ** 2)))
    coverage = np.zeros((SIZE, SIZE), np.float32)
    coverage[8:-8, 8:-8] = 1
    field = strength * field.real / field.real.std()
    return Reconstruction(
        object=np.exp(1j * field - 0.1)[None].astype(np.complex64), probe=np.ones((1, 8, 8), np.complex64),
        positions=np.zeros((1, 2)), coverage=coverage, origin=(0.0, 0.0), pixel_size_m=1e-8, errors=np.zeros(1),
        r_factor=0.1, phase_contrast_rad=1.0, engine="fast",
    )  # fmt: skip


def freed(rec: Reconstruction, shift, ramp, phase: float, scale: float) -> Reconstruction:
    y, x = np.indices((SIZE, SIZE))
    moved = fourier_shift(rec.object[0], shift) * scale * np.exp(1j * (phase + ramp[0] * y + ramp[1] * x))
    return replace(rec, object=moved[None].astype(np.complex64))


@settings(max_examples=12, deadline=None)
@given(
    shift=st.tuples(*[st.floats(-4, 4)] * 2),
    ramp=st.tuples(*[st.floats(-0.05, 0.05)] * 2),
    phase=st.floats(-3, 3),
    scale=st.floats(0.5, 2),
)
def test_phase_ramp_shift_and_scale_are_undone(shift, ramp, phase, scale):
    rec = specimen()
    found = aligned(freed(rec, shift, ramp, phase, scale), rec)
    inner = np.s_[20:-20, 20:-20]
    assert found.inside[inner].all()
    assert np.abs(found.object[inner] - rec.object[0][inner]).max() < 0.02
    np.testing.assert_allclose(found.shift, -np.array(shift), atol=0.02)


def test_phases_that_wrap_do_no_harm():
    rec = specimen(strength=2.0)  # from -6 to 6 rad
    found = aligned(freed(rec, (0.4, -0.3), (0.02, 0.01), 1.0, 1.0), rec)
    assert np.abs(np.angle(found.object * rec.object[0].conj()))[20:-20, 20:-20].max() < 0.05


def test_another_origin_is_brought_to_the_grid():
    rec = specimen()
    cut = replace(rec, object=rec.object[:, 5:, 9:], coverage=rec.coverage[5:, 9:], origin=(5e-8, 9e-8))
    found = aligned(cut, rec)
    assert found.object.shape == rec.object.shape[1:]
    assert np.abs(found.object - rec.object[0])[20:-20, 20:-20].max() < 0.01


def test_noise_stays_what_it_is():
    rec = specimen()
    noise = 0.05 * np.random.default_rng(1).normal(size=(SIZE, SIZE))
    found = aligned(replace(rec, object=rec.object * np.exp(1j * noise).astype(np.complex64)), rec)
    rest = np.angle(found.object * rec.object[0].conj())[found.inside]
    assert rest.std() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pixel_size_m": 1.1e-8}, "pixel sizes are 1e-08 and 1.1e-08"),
        ({"pixel_size_m": None}, "pixel sizes are 1e-08 and None"),
        ({"origin": (1e-5, 0.0)}, "no scanned pixel in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, text):
    with pytest.raises(ReconstructionError, match=text):
        aligned(replace(specimen(), **change), specimen())
