import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.optics import NearField, coherent_modes, disc_probe, zone_plate_probe

OPTICS = {"diameter_m": 180e-6, "outermost_zone_m": 60e-9, "central_stop_m": 70e-6}
PROBE = zone_plate_probe(64, 30e-9, 1.24e-10, **OPTICS, defocus_m=300e-6)


@given(st.integers(2, 8), st.floats(0.05, 0.95), st.sampled_from(["pupil", "sample"]), st.floats(0.1, 1e6))
@settings(deadline=None, max_examples=30)
def test_modes_are_orthogonal_strongest_first_and_keep_all_photons(
    modes: int, between: float, plane: str, photons: float
) -> None:
    fraction = 1 / modes + between * (1 - 1 / modes)
    probe = (PROBE * np.sqrt(photons)).astype(np.complex64)
    waves = coherent_modes(probe, modes, fraction, plane=plane)
    assert waves.shape == (modes, 64, 64) and waves.dtype == np.complex64
    gram = np.einsum("ayx,byx->ab", waves.conj(), waves, dtype=np.complex128) / photons
    np.testing.assert_allclose(gram, np.diag(np.diagonal(gram)), atol=1e-5)
    shares = np.diagonal(gram).real
    assert shares.sum() == pytest.approx(1, rel=1e-4)
    assert shares[0] == pytest.approx(fraction, rel=1e-4)
    assert (np.diff(shares) <= 1e-6).all()
    np.testing.assert_allclose(waves[0], probe * np.sqrt(fraction), atol=1e-5 * np.sqrt(photons))


def test_modes_of_a_focused_beam_propagate_with_it() -> None:
    focus = zone_plate_probe(64, 30e-9, 1.24e-10, **OPTICS)
    there = NearField(64, 30e-9, 1.24e-10, 300e-6).forward(coherent_modes(focus, 4, 0.5))
    np.testing.assert_allclose(coherent_modes(PROBE, 4, 0.5), there, atol=1e-5)


def test_modes_of_a_pinhole_stay_inside_it() -> None:
    probe = disc_probe(64, 1.0, diameter_m=30, edge_m=2)
    outside = np.abs(probe) == 0
    assert np.abs(coherent_modes(probe, 5, 0.4, plane="sample"))[:, outside].max() < 1e-6


def test_one_mode_is_the_probe_itself() -> None:
    np.testing.assert_array_equal(coherent_modes(PROBE, 1, 1.0)[0], PROBE)


@pytest.mark.parametrize(
    ("modes", "fraction", "match"),
    [
        (1, 0.7, "coherent_fraction is 0.7 with 1 mode"),
        (3, 1.0, "nothing left for the others"),
        (3, 0.3, "allowed is above 0.3333"),
        (0, 1.0, "modes is 0"),
    ],
)
def test_faults_are_told(modes: int, fraction: float, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        coherent_modes(PROBE, modes, fraction)
    with pytest.raises(DatasetError, match=r"shape \(1, 64, 64\)"):
        coherent_modes(PROBE[None], 1, 1.0)
