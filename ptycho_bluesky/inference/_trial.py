"""The gate: a candidate against the model in service, on held-out frames whose reconstruction is known."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.inference._model import ProbeViTModel, PtychoNNModel
from ptycho_bluesky.inference._scores import BATCH, Scores, as_refined, scores
from ptycho_bluesky.optics import probe_diameter_m

__all__ = ["Trial", "TrialOptions", "hold_out", "trial"]

ROUNDS = 5
"""Timings of each model, taken in turns; the fastest counts, as neighbours disturb."""

LEAST_FRAMES = 16

Loaded = ProbeViTModel | PtychoNNModel


class TrialOptions(BaseModel):
    """What a candidate must reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(default=256, ge=LEAST_FRAMES, le=100_000)
    """Held-out frames that are used at the most: those nearest to the middle of them."""

    least_gain: float = Field(default=0.05, gt=0, lt=1)
    """Share by which the candidate must bring the phase correlation nearer to 1: an equal model is never promoted."""

    ssim_loss: float = Field(default=0.02, ge=0, le=1)
    """Structural similarity that it may lose."""

    misfit_growth: float = Field(default=1.1, ge=1, le=10)
    """Factor by which its residual through the probe may be larger."""

    slowest: float = Field(default=2.0, ge=1, le=100)
    """Factor by which it may be slower."""

    floor: float = Field(default=0.3, ge=0, lt=1)
    """Phase correlation below which no model goes into service, whatever serves now."""


@dataclass(frozen=True)
class Trial:
    """The outcome of a trial."""

    passed: bool
    reasons: tuple[str, ...]
    """In plain words, one for each thing that was looked at."""

    candidate: dict[str, float | None]
    """``phase_correlation``, ``ssim``, ``misfit``, ``frames_per_second``."""

    in_service: dict[str, float | None]
    """The same of the model in service; None where it cannot be used for this beam."""

    against: str
    """Content hash of the model in service."""

    against_name: str
    frames: int
    dataset: str
    when: float
    """Seconds since 1970."""


def hold_out(
    dataset: PtychoDataset, probe: npt.NDArray[np.complex64], share: float = 0.2
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the numbers of frames to train on, and of those held out.

    Held out is one end of the field along its longer side. Frames within half a beam of it are in neither, so that no
    pixel of the sample that a trial looks at was trained on under more than the beam's rim.

    Parameters
    ----------
    dataset:
        Whose positions are split.
    probe:
        (modes, H, W), for the width of the beam.
    share:
        Of the frames, to be held out.

    Raises
    ------
    InferenceError
        When either has fewer than 16 frames.
    """
    axis = int(np.ptp(dataset.positions, axis=0).argmax())
    along = dataset.positions[:, axis]
    edge = float(np.quantile(along, 1 - share))
    beam = probe_diameter_m(probe, dataset.pixel_size_m or 1.0, 0.9)
    learnt, held = np.flatnonzero(along < edge - beam / 2), np.flatnonzero(along >= edge)
    if min(len(learnt), len(held)) < LEAST_FRAMES:
        raise InferenceError(
            f"dataset {dataset.name or '(unnamed)'} is too small to hold frames out: {len(held)} would be held out and "
            f"{len(learnt)} be left, {LEAST_FRAMES} of each are needed; train on simulated frames, or on a larger scan"
        )
    return learnt, held


def _halves(dataset: PtychoDataset, held: npt.NDArray[np.intp] | None, most: int) -> list[PtychoDataset]:
    """Return the usable held-out frames nearest to the middle, as two halves of their field."""
    chosen = np.arange(len(dataset)) if held is None else held
    away = np.linalg.norm(dataset.positions[chosen] - dataset.positions[chosen].mean(axis=0), axis=1)
    chosen = np.sort(chosen[np.argsort(away, kind="stable")[:most]])
    part = dataset.subset(chosen)
    part = part.subset(np.flatnonzero(part.finite_frames()))
    if len(part) < LEAST_FRAMES:
        raise InferenceError(f"{len(part)} usable frames are held out; a trial needs {LEAST_FRAMES}")
    along = part.positions[:, int(np.ptp(part.positions, axis=0).argmax())]
    first = np.zeros(len(part), bool)
    first[np.argsort(along, kind="stable")[: len(part) // 2]] = True
    return [part.subset(first), part.subset(~first)]


def _rates(models: list[Loaded], part: PtychoDataset, rec: Reconstruction) -> list[float]:
    """Return frames a second of each model on this machine."""
    size = part.frame_shape[0]
    frames = np.asarray(part.frames[slice(0, BATCH)]).astype(np.float32)
    predictors = [m.for_probe(rec.probe, part.pixel_size_m, size, mask=part.mask) for m in models]
    fastest = [np.inf] * len(models)
    for _ in range(ROUNDS):
        for k, predictor in enumerate(predictors):
            begun = time.perf_counter()
            predictor(frames)
            fastest[k] = min(fastest[k], time.perf_counter() - begun)
    return [len(frames) / seconds for seconds in fastest]


def trial(
    candidate: Loaded,
    in_service: Loaded,
    dataset: PtychoDataset,
    reconstruction: Reconstruction,
    *,
    held_out: npt.NDArray[np.intp] | None = None,
    options: TrialOptions | None = None,
) -> Trial:
    """Try a candidate against the model in service.

    It passes when it brings the phase correlation nearer to 1 by a given share, in each half of the held-out field,
    loses nothing of account in structural similarity, residual through the probe and speed, and is good for anything.

    Parameters
    ----------
    candidate, in_service:
        From ``load_model``.
    dataset, reconstruction:
        Far field, and its result: with as many positions as there are frames.
    held_out:
        (n,) numbers of frames that the candidate has not been trained on; None where it has seen none of them.
    options:
        What it must reach.

    Raises
    ------
    InferenceError
        When the candidate cannot be used for this beam, or there are too few frames.
    """
    options = options or TrialOptions()
    dataset = as_refined(dataset.validate(), reconstruction)
    if dataset.modality != "far-field":
        raise InferenceError(
            f"dataset {dataset.name} is a {dataset.modality} one; the networks know the far field only"
        )
    halves = _halves(dataset, held_out, options.frames)
    new = scores(candidate, halves, reconstruction)
    models: list[Loaded] = [candidate]
    old: Scores | None = None
    findings: list[tuple[bool, str]] = []
    try:
        old = scores(in_service, halves, reconstruction)
        models.append(in_service)
    except InferenceError as error:
        findings.append((True, f"the model in service cannot be used for this beam: {error}"))
    rates = _rates(models, halves[0], reconstruction)
    if old is not None:
        findings += [*_findings(new, old, options), _speed(rates[0], rates[1], options)]
    enough = new.phase_correlation >= options.floor
    needs = f"at least {options.floor:.2f} is asked of any model"
    findings.append((enough, f"phase correlation {new.phase_correlation:.3f}: {needs}"))
    return Trial(
        passed=all(fine for fine, _ in findings),
        reasons=tuple(f"{'' if fine else 'NOT ENOUGH: '}{text}" for fine, text in findings),
        candidate=_figures(new, rates[0]),
        in_service=_figures(old, rates[-1]),
        against=in_service.content_hash,
        against_name=in_service.name,
        frames=sum(len(half) for half in halves),
        dataset=dataset.name,
        when=time.time(),
    )


def _figures(found: Scores | None, rate: float | None) -> dict[str, float | None]:
    if found is None:
        return dict.fromkeys(("phase_correlation", "ssim", "misfit", "frames_per_second"))
    figures: dict[str, Any] = {
        "phase_correlation": found.phase_correlation,
        "ssim": found.ssim,
        "misfit": found.misfit,
        "frames_per_second": rate,
    }
    return {name: None if value is None else round(float(value), 5) for name, value in figures.items()}


def _findings(new: Scores, old: Scores, options: TrialOptions) -> list[tuple[bool, str]]:
    gain = (new.phase_correlation - old.phase_correlation) / max(1 - old.phase_correlation, 1e-6)
    everywhere = all(a > b for a, b in zip(new.parts, old.parts, strict=True))
    halves = "in both halves of the field" if everywhere else "but not in each half of the field"
    return [
        (
            gain >= options.least_gain and everywhere,
            f"phase correlation {new.phase_correlation:.3f}, in service {old.phase_correlation:.3f}: {gain:+.1%} of "
            f"what is missing, {halves}; at least {options.least_gain:+.1%} in both is asked",
        ),
        (
            new.ssim >= old.ssim - options.ssim_loss,
            f"structural similarity {new.ssim:.3f}, in service {old.ssim:.3f}; "
            f"at most {options.ssim_loss:g} may be lost",
        ),
        (
            new.misfit <= old.misfit * options.misfit_growth,
            f"residual through the probe {new.misfit:.3f}, in service {old.misfit:.3f}; at most "
            f"{options.misfit_growth:g} times as much is allowed",
        ),
    ]


def _speed(new: float, old: float, options: TrialOptions) -> tuple[bool, str]:
    return (
        new * options.slowest >= old,
        f"{new:.0f} frames/s, in service {old:.0f}; at most {options.slowest:g} times slower is allowed",
    )
