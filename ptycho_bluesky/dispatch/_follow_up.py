"""The training that begins by itself when a reconstruction is done. Heavy: imported by runners alone."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.catalog import ModelLibrary
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._spec import JobSpec, ReconstructionSource
from ptycho_bluesky.dispatch._status import JobState
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.formats import read_reconstruction
from ptycho_bluesky.inference import ProbeViTSizes
from ptycho_bluesky.inference._fitting import fit_probe

__all__ = ["follow_up", "probe_likeness"]

logger = logging.getLogger(__name__)

ALIKE = 0.9
"""Likeness from which two probes count as one: drifts of some per cent, other dust, another centre."""

ACTIVE: tuple[JobState, ...] = ("queued", "running")

LATER = 10
"""By how much a follow-up has less priority: the next reconstruction goes first."""

Probe = npt.NDArray[np.complex64]


def probe_likeness(a: Probe, b: Probe, size: int | None = None) -> float:
    """Return how alike two probes are to a network, 0 to 1, whatever their place, phase, scale and frame size.

    It is the largest modulus of the normalised cross-correlation of their strongest modes, as fitted to the network's
    frames.

    Parameters
    ----------
    a, b:
        (modes, H, H) complex64, each of its own H.
    size:
        Side of the network's frames, pixels; None for the default network's.
    """
    wanted = ProbeViTSizes().size if size is None else size
    spectra = []
    for probe in (a, b):
        first = fit_probe(probe, probe.shape[-1], wanted).probe(probe)[0]
        spectra.append(scipy.fft.fft2(first / max(float(np.linalg.norm(first)), 1e-30)))
    return float(np.abs(scipy.fft.ifft2(spectra[0] * spectra[1].conj())).max())


def _alike(a: Probe, b: Probe | None) -> bool:
    if b is None:
        return False
    try:
        return probe_likeness(a, b) >= ALIKE
    except PtychoError:  # one of them does not fit the network
        return False


def _being_learnt(ledger: Ledger) -> list[Probe]:
    """Return the probes for which a model is being trained, or is about to be."""
    probes = []
    for state in ACTIVE:
        for status in ledger.jobs(state):
            spec = ledger.job(status.job_id).spec()
            if spec.recipe == "train" and isinstance(spec.source, ReconstructionSource):
                result = ledger.folder / spec.source.job_id / "result.h5"
                probes += [read_reconstruction(result).probe] if result.exists() else []
    return probes


def _known(probe: Probe, ledger: Ledger) -> bool:
    """Whether a model was trained for such a probe, or is being trained."""
    library = ModelLibrary()
    return any(_alike(probe, library.probe(r)) for r in library.records()) or any(
        _alike(probe, other) for other in _being_learnt(ledger)
    )


def follow_up(job: JobFolder, ledger: Ledger) -> JobSpec | None:
    """Return the training that a finished reconstruction asks for; None where it asks for none."""
    spec = job.spec()
    if spec.then is None:
        return None
    result = read_reconstruction(job.result_file)
    if result.modality != "far-field":
        logger.info("no training follows: the networks know the far field alone, and this is a %s", result.modality)
        return None
    options = spec.then.order(known=not spec.then.cold_start or _known(result.probe, ledger))
    if options is None:
        return None
    return JobSpec(
        recipe="train",
        source=ReconstructionSource(job_id=job.job_id),
        options=options,
        device=spec.device,
        raw_uid=spec.raw_uid,
        priority=max(-100, spec.priority - LATER),
    )
