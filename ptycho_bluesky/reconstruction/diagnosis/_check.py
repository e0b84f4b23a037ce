"""All findings on one dataset, and what a reconstruction does with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction.diagnosis._finding import DatasetFinding
from ptycho_bluesky.reconstruction.diagnosis._frames import frame_findings
from ptycho_bluesky.reconstruction.diagnosis._limits import FitLimits, fit_limits
from ptycho_bluesky.reconstruction.diagnosis._orientation import OrientationReport, PositionAxes, detect_orientation
from ptycho_bluesky.reconstruction.diagnosis._scale import fit_findings
from ptycho_bluesky.reconstruction.diagnosis._units import position_findings

__all__ = ["CheckReport", "check_dataset", "explain_bad_fit", "refuse_if_turned", "refuse_if_wrong"]

AS_GIVEN = "check=False (--no-check) reconstructs it as given"

BAD_FIT = 0.5
"""Share left unexplained from which on a result is looked into."""


@dataclass(frozen=True)
class CheckReport:
    """What a look at a dataset brought."""

    name: str
    """Of the dataset."""

    findings: tuple[DatasetFinding, ...]
    """Errors first; empty where nothing looks wrong."""

    limits: FitLimits
    """Between which R-factors a fit must lie."""

    orientation: OrientationReport | None = None
    """None where it was not tried: what was found before forbids it, or it was not asked for."""

    @property
    def errors(self) -> list[DatasetFinding]:
        """Findings that would make a reconstruction wrong."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def __str__(self) -> str:
        if not self.findings:
            return f"dataset {self.name}: nothing looks wrong"
        return report(f"dataset {self.name}", [f"{finding.what}: {finding.text}" for finding in self.findings])


def check_dataset(dataset: PtychoDataset, *, trials: bool = True, threads: int | None = None) -> CheckReport:
    """Look for what is most often wrong with a measurement, and name the likely cause.

    Unit and overlap of the positions, centre, bad pixels and dark frames come from the numbers alone; which way the
    positions count, their scale (energy, distance, pixel) and their order from short reconstructions of some
    neighbouring frames.

    Parameters
    ----------
    dataset:
        Far or near field.
    trials:
        Whether to reconstruct. Without, it takes a fraction of a second.
    threads:
        Of the trials; None for the setting ``threads``.

    Raises
    ------
    DatasetError
        When the dataset has faults that its own ``validate`` finds.
    """
    dataset.validate()
    name = dataset.name or "(unnamed)"
    findings = position_findings(dataset) + frame_findings(dataset)
    limits, orientation = fit_limits(dataset), None
    if trials and not any(finding.level == "error" for finding in findings):
        orientation = detect_orientation(dataset, threads=threads)
        findings += _trial_findings(dataset, orientation, threads)
    findings.sort(key=lambda finding: finding.level != "error")
    return CheckReport(name, tuple(findings), limits, orientation)


def _trial_findings(
    dataset: PtychoDataset, orientation: OrientationReport, threads: int | None
) -> list[DatasetFinding]:
    if orientation.decided:
        found = []
        if not orientation.as_given:
            found.append(DatasetFinding("orientation", _level(dataset, orientation), str(orientation)))
        if not orientation.sign_decided and dataset.probe is not None:
            found.append(DatasetFinding("probe", "warning", orientation.reasons[-1]))
            dataset = replace(dataset, probe=None)  # it would mislead what follows
        return found + fit_findings(dataset, orientation.best, threads)
    if not orientation.tried:
        return []
    found = fit_findings(dataset, PositionAxes(), threads)
    text = (
        f"{orientation}; the frames may hold too few counts or too little contrast, or the positions belong to "
        "another scan, are in another order or far off in scale"
    )
    return found or [DatasetFinding("orientation", "warning", text)]


def _level(dataset: PtychoDataset, orientation: OrientationReport) -> Literal["error", "warning"]:
    """Both signs reversed, the far field shows the same image with its phase upside down: no reason to refuse."""
    same_fit = dataset.modality == "far-field" and dataset.probe is None
    return "warning" if same_fit and orientation.best == PositionAxes().reversed else "error"


def refuse_if_wrong(dataset: PtychoDataset, *, trials: bool = True, threads: int | None = None) -> None:
    """Raise where a dataset is clearly wrong; parameters as for :func:`check_dataset`.

    Raises
    ------
    DatasetError
        Naming every error found, its likely cause and what to do.
    """
    checked = check_dataset(dataset, trials=trials, threads=threads)
    if not checked.ok:
        faults = [f"{finding.what}: {finding.text}" for finding in checked.errors]
        raise DatasetError(f"{report(f'dataset {checked.name} looks wrong', faults)}; {AS_GIVEN}")


def refuse_if_turned(dataset: PtychoDataset, *, threads: int | None = None) -> str | None:
    """Return in words which way the positions count, as a hundred frames tell; None where they are too few.

    Parameters as for :func:`detect_orientation`.

    Raises
    ------
    DatasetError
        Where another way than the given one is clearly right.
    """
    found = detect_orientation(dataset, threads=threads)
    if found.decided and not found.as_given and _level(dataset, found) == "error":
        raise DatasetError(f"dataset {dataset.name or '(unnamed)'} looks wrong: orientation: {found}; {AS_GIVEN}")
    return f"orientation: {found}" if found.tried else None


def explain_bad_fit(
    dataset: PtychoDataset, r_factor: float, *, refuse: bool = False, threads: int | None = None
) -> str | None:
    """Return why a reconstruction fits as badly as it does; None where it fits well enough, or no cause is found.

    Parameters
    ----------
    dataset:
        What was reconstructed.
    r_factor:
        Of the result.
    refuse:
        Raise where the cause is an error of the dataset, rather than return it.
    threads:
        Of the trials, which are made only where the fit is bad; None for the setting ``threads``.

    Raises
    ------
    DatasetError
        With `refuse`, and a dataset that is clearly wrong.
    """
    limits = fit_limits(dataset)
    share = limits.unexplained(r_factor)
    if share < BAD_FIT:
        return None
    checked = check_dataset(dataset, threads=threads)
    if not checked.findings:
        return None
    explained = (
        f"an R-factor of {r_factor:.3f} leaves {min(share, 1):.0%} of what differs from frame to frame unexplained "
        f"(noise alone gives {limits.noise:.3f}, one pattern for all frames {limits.nothing:.3f}). {checked}"
    )
    if refuse and not checked.ok:
        raise DatasetError(f"{explained}; {AS_GIVEN}")
    return explained
