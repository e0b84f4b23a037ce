"""Which place a job goes to where it says ``"auto"``: by size, device, files and deadline, and by who answers now."""

from __future__ import annotations

from ptycho_bluesky._resources import LocalResource, Resource
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._allowed import check_paths
from ptycho_bluesky.dispatch._launcher import launcher_at
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.errors import DispatchError

__all__ = ["choose"]


def _against(spec: JobSpec, place: str, resource: Resource) -> str:
    """Return what speaks against a place, whoever else is there; "" where nothing does."""
    frames = spec.frames
    if frames is not None and frames < resource.min_frames:
        return f"{frames} frames are fewer than its {resource.min_frames}"
    if frames is not None and resource.max_frames is not None and frames > resource.max_frames:
        return f"{frames} frames are more than its {resource.max_frames}"
    if spec.device != "cpu" and place != "local" and resource.device == "cpu":
        return "it has no GPU"
    most = getattr(resource, "nodes", 1) * getattr(resource, "ranks_per_node", 1)
    if place != "local" and spec.ranks > most:
        return f"{spec.ranks} ranks are more than its {most}"
    try:
        check_paths(spec.model_copy(update={"place": place}))
    except DispatchError:
        return "its paths do not allow the job's files"
    return ""


def _answers(place: str) -> bool:
    """Whether a place can be asked now; one that has no quick answer is taken to be there."""
    look = getattr(launcher_at(place), "look", None)
    return look is None or look() is not None


def _jobs(spec: JobSpec, place: str, resource: Resource, ledger: Ledger) -> tuple[int, int | None]:
    """Return how many jobs are at a place, and how many may run there at once."""
    device = spec.model_copy(update={"place": place}).resource
    return len(ledger.active(device)), resource.max_jobs


def choose(spec: JobSpec, ledger: Ledger) -> tuple[str, str]:
    """Return the place for a job, and why.

    The places are looked at in the order of the settings, ``local`` first where they do not name it. The first that
    takes such a job and answers is taken; with ``max_seconds`` one where a job begins at once goes before.

    Raises
    ------
    DispatchError
        When no place takes it; the text says what speaks against each.
    """
    known = settings().resources
    places: dict[str, Resource] = {**({} if "local" in known else {"local": LocalResource(kind="local")}), **known}
    fitting: list[tuple[bool, str, str]] = []
    left_out: list[str] = []
    for place, resource in places.items():
        against = _against(spec, place, resource) or ("" if _answers(place) else "it does not answer")
        if against:
            left_out.append(f"not {place}: {against}")
            continue
        there, most = _jobs(spec, place, resource, ledger)
        busy = most is not None and there >= most
        fitting.append((busy, place, f"{there} jobs there" + ("" if most is None else f", {most} at once")))
    if not fitting:
        raise DispatchError(f"no place takes this job: {'; '.join(left_out)}; give one by name, or change its resource")
    chosen = min(fitting, key=lambda each: each[0]) if spec.max_seconds is not None else fitting[0]
    if chosen is not fitting[0]:
        left_out.append(f"not {fitting[0][1]}: its max_seconds do not wait for other jobs ({fitting[0][2]})")
    return chosen[1], "; ".join([chosen[2], *left_out])
