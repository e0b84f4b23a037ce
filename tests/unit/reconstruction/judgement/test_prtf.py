"""Phase retrieval transfer function: 1 where members agree, falling where their phases are noise."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.optics import fourier_shift
from ptycho_bluesky.reconstruction.judgement import phase_retrieval_transfer, uncertainty
from ptycho_bluesky.reconstruction.judgement._prediction import radial_sums


def bright_rings(judged) -> np.ndarray:
    frames = np.asarray(judged.dataset.frames, float).sum(axis=0)
    return radial_sums(frames, np.ones(frames.shape, bool)) > 10_000


def test_it_is_one_where_members_agree(judged):
    found = phase_retrieval_transfer(judged.result, judged.dataset, [judged.result] * 2)
    np.testing.assert_allclose(found.transfer[bright_rings(judged)], 1, atol=1e-3)
    assert found.cutoff is None and found.resolution is None
    assert found.frequency[0] == pytest.approx(1 / (64 * judged.result.pixel_size_m))


@pytest.mark.parametrize("count", [2, 6])
def test_random_phases_leave_nothing_however_few_members(judged, count):
    rng, members = np.random.default_rng(0), []
    for _ in range(count):  # objects of noise that scatter everywhere, each another one
        noise = np.exp(1j * rng.uniform(-np.pi, np.pi, judged.result.object.shape)).astype(np.complex64)
        members.append(replace(judged.result, object=noise))
    found = phase_retrieval_transfer(judged.result, judged.dataset, members)
    assert found.transfer[bright_rings(judged)].max() < 0.25


def test_what_is_free_does_not_count(judged):
    """A phase, a common shift of object and probe, and a mixture of modes leave every frame as it is."""
    rec, shift = judged.result, (1.3, -0.6)
    two = replace(rec, probe=np.concatenate([rec.probe, 0.4 * np.roll(rec.probe, 5, axis=-1)]))
    turn = np.array([[0.8, 0.6j], [0.6j, 0.8]])
    moved = replace(
        two,
        object=fourier_shift(two.object, shift) * np.complex64(np.exp(0.7j)),
        probe=np.einsum("mn,nhw->mhw", turn, fourier_shift(two.probe, shift)).astype(np.complex64),
    )
    same = phase_retrieval_transfer(two, judged.dataset, [two, two]).transfer
    freed = phase_retrieval_transfer(two, judged.dataset, [two, moved]).transfer
    np.testing.assert_allclose(freed[:16], same[:16], atol=0.03)


def test_fewer_photons_lower_it_and_the_cutoff(measure: Callable):
    found = {}
    for photons in (3e3, 3e5):
        one = measure(photons)
        members = uncertainty(one.dataset, one.result, 4).members
        found[photons] = phase_retrieval_transfer(one.result, one.dataset, members)
    assert found[3e3].transfer[12:].mean() < found[3e5].transfer[12:].mean()
    assert found[3e3].cutoff is not None
    assert found[3e3].resolution == pytest.approx(1 / (2 * found[3e3].cutoff))
    assert found[3e5].cutoff is None or found[3e5].cutoff > found[3e3].cutoff


def test_what_has_none_is_refused(judged):
    with pytest.raises(ReconstructionError, match="at least 2 reconstructions"):
        phase_retrieval_transfer(judged.result, judged.dataset, [judged.result])
    with pytest.raises(ReconstructionError, match="and the far field"):
        near = replace(judged.dataset, modality="near-field")
        phase_retrieval_transfer(judged.result, near, [judged.result] * 2)
    more = replace(judged.result, probe=np.repeat(judged.result.probe, 2, axis=0))
    with pytest.raises(ReconstructionError, match="1 probe modes and its members have not"):
        phase_retrieval_transfer(judged.result, judged.dataset, [judged.result, more])
