"""Job arrays: the reconstructions of a campaign (views, energies, times), submitted, followed and retried as one.

An array is a file of its members; what became of each is told by its job. A member is a run or a specification, once,
however often it is entered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptycho_bluesky._who import whoami
from ptycho_bluesky.dispatch._array_file import (
    ArrayFile,
    ArrayMember,
    array_files,
    array_of_campaign,
    array_of_jobs,
    asked_of,
    find_array,
)
from ptycho_bluesky.dispatch._jobs import cancel, retry, status, submit
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._status import FINAL, JobStatus
from ptycho_bluesky.errors import DispatchError

__all__ = [
    "ArrayStatus",
    "array_status",
    "arrays",
    "cancel_array",
    "enter_in_array",
    "retry_array",
    "submit_array",
]

PACE = 10
"""Latest ends of members by which the time left is estimated."""

RETRIED = ("failed", "lost", "cancelled")


@dataclass(frozen=True)
class ArrayStatus:
    """What is known of an array now."""

    array_id: str
    name: str
    axis: str
    created: float
    """Seconds since 1970."""

    expected: int
    """Members when the campaign is complete."""

    cancelled: bool
    """Whether it takes in members without starting them, until it is retried."""

    members: tuple[ArrayMember, ...]
    jobs: tuple[JobStatus | None, ...]
    """Of each member; None where its job was not submitted yet."""

    @property
    def states(self) -> dict[str, int]:
        """How many members are in each state; ``"missing"``: not submitted, or not measured yet."""
        found: dict[str, int] = {}
        for job in self.jobs:
            state = "missing" if job is None else job.state
            found[state] = found.get(state, 0) + 1
        if self.expected > len(self.jobs):
            found["missing"] = found.get("missing", 0) + self.expected - len(self.jobs)
        return found

    @property
    def done(self) -> int:
        """Members with a result."""
        return self.states.get("done", 0)

    @property
    def failed(self) -> int:
        """Members that ended without a result."""
        return sum(self.states.get(state, 0) for state in RETRIED)

    @property
    def left(self) -> int:
        """Members still to come to an end."""
        return max(0, self.expected - self.done - self.failed)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the pace of the latest members, their waiting and the scans' included; None: not known yet."""
        ends = sorted(job.updated for job in self.jobs if job is not None and job.state == "done")[-PACE:]
        if not ends:
            return None
        if len(ends) > 1:
            return round(self.left * (ends[-1] - ends[0]) / (len(ends) - 1), 1)
        return round(self.left * (ends[0] - min(job.created for job in self.jobs if job is not None)), 1)


def enter_in_array(campaign: Mapping[str, Any], spec: JobSpec) -> bool:
    """Note the reconstruction of a campaign's run in the campaign's array, which is made where there is none.

    Parameters
    ----------
    campaign:
        ``ptychography.campaign`` of the run, with its ``uid``.
    spec:
        Of the run's job, which the caller submits.

    Returns
    -------
    bool
        False where the array was cancelled: the job is not to be submitted.
    """
    file = array_of_campaign(str(campaign["uid"]), spec)
    uid = str(campaign["uid"])
    header = {"campaign": uid, "name": uid, "axis": campaign.get("axis", ""), "expected": campaign.get("count")}
    file.enter({**header, "asked": asked_of(spec)}, [ArrayMember(spec, campaign.get("index"), campaign.get("value"))])
    return not file.cancelled()


def submit_array(source: str | Sequence[JobSpec], *, name: str = "", **asked: Any) -> str:
    """Submit the reconstructions of all runs of a campaign, or any jobs, as one array; each is submitted once.

    Done again it adds the runs that were measured since. Of a campaign's index that was measured twice, the complete
    run counts, or else the last; runs that are still going on are left out.

    Parameters
    ----------
    source:
        Uid of a campaign in the catalogue, or specifications.
    name:
        Of an array of specifications; a campaign's is its uid.
    **asked:
        Fields of :class:`JobSpec` for the runs of a campaign: ``engine``, ``options``, ``device``, ``priority``...

    Returns
    -------
    str
        The array's id.

    Raises
    ------
    DispatchError
        When there is no such campaign or no specification, or a job cannot be submitted.
    CatalogError
        When the catalogue cannot be reached.
    """
    if isinstance(source, str):
        from ptycho_bluesky.dispatch._campaign_runs import members_of  # Tiled: not for those who only look

        members, header = members_of(source, asked)
        file = array_of_campaign(source, members[0].spec)
        header = {"campaign": source, "name": source, "asked": asked_of(members[0].spec), **header}
    else:
        if not source or asked:
            raise DispatchError("an array of specifications needs at least one, and no more fields than they have")
        members = [ArrayMember(spec, index) for index, spec in enumerate(source)]
        file = array_of_jobs(name, members)
        header = {"name": name or f"{len(members)} jobs"}
    file.enter(header, members)
    for member in file.members():
        submit(member.spec)  # what is there already is not done again
    return file.array_id


def _status(file: ArrayFile) -> ArrayStatus:
    header, members = file.header(), file.members()
    expected = max(int(header.get("expected") or 0), len(members))
    said = str(header.get("name", "")), str(header.get("axis") or ""), float(header.get("t", 0.0))
    return ArrayStatus(
        file.array_id, *said, expected, file.cancelled(), tuple(members), tuple(_job_of(m) for m in members)
    )


def _job_of(member: ArrayMember) -> JobStatus | None:
    try:
        return status(member.spec.job_id)
    except DispatchError:  # not submitted yet
        return None


def array_status(array_id: str) -> ArrayStatus:
    """Return the status of an array, given its id, its name (a campaign's uid), or the beginning of one."""
    return _status(find_array(array_id))


def arrays() -> list[ArrayStatus]:
    """Return the status of all arrays, newest first."""
    found = [_status(file) for file in array_files()]
    return sorted(found, key=lambda array: array.created, reverse=True)


def cancel_array(array_id: str) -> ArrayStatus:
    """Cancel all jobs of an array, those that wait first; runs measured later join it without being started."""
    file = find_array(array_id)
    with file.locked():
        file.append([{"cancelled": True, "by": whoami()}])
    jobs = [job for job in _status(file).jobs if job is not None and job.state not in FINAL]
    for job in sorted(jobs, key=lambda job: (job.state != "queued", -job.created)):
        cancel(job.job_id)
    return _status(file)


def retry_array(array_id: str) -> ArrayStatus:
    """Start again what failed, was lost or cancelled, and submit what was not; what is done stays as it is.

    Runs of the campaign that the array does not have yet are added where the catalogue can be reached.
    """
    file = find_array(array_id)
    with file.locked():
        file.append([{"cancelled": False, "by": whoami()}])
    now = _status(file)
    for member, job in zip(now.members, now.jobs, strict=True):
        if job is None:
            submit(member.spec)
        elif job.state in RETRIED:
            retry(job.job_id)
    header = file.header()
    if "campaign" in header:
        submit_array(header["campaign"], **header.get("asked", {}))
    return _status(file)
