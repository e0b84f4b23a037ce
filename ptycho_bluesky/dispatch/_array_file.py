"""The file of a job array: ``<home>/arrays/<array_id>.jsonl``, only ever appended to."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky._who import whoami
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.errors import DispatchError

__all__ = ["ArrayFile", "ArrayMember", "array_files", "array_of_campaign", "array_of_jobs", "asked_of", "find_array"]

NAMESPACE = uuid.UUID("b0f4a2a6-6f0a-5d0b-8f5a-6a6c3f2f9b1e")


@dataclass(frozen=True)
class ArrayMember:
    """A job of an array."""

    spec: JobSpec
    index: int | None = None
    """In the campaign."""

    value: float | None = None
    """On the campaign's axis."""


class ArrayFile:
    """The file of an array: a header, then lines with a member each, or a change of mind."""

    def __init__(self, array_id: str) -> None:
        self.array_id = array_id
        self.path = _folder() / f"{array_id}.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        with file_lock(self.path.with_suffix(".lock"), timeout_s=10.0) as ours:
            if not ours:
                raise DispatchError(f"another process has held {self.path.with_suffix('.lock')} for 10 s; end it")
            yield

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps({"t": time.time(), **entry}) + "\n" for entry in entries)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write(f"\n{lines}" if torn else lines)

    def entries(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except OSError as error:
            raise DispatchError(f"{self.path} cannot be read: {error}; `jobs array list` shows all arrays") from None
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # torn
        return [entry for entry in found if isinstance(entry, dict)]

    @property
    def name(self) -> str:
        """A campaign's uid, or what the user called it."""
        return str(self.header().get("name", ""))

    def header(self) -> dict[str, Any]:
        return next((entry for entry in self.entries() if "array_id" in entry), {})

    def members(self) -> list[ArrayMember]:
        """Return the members, in the order of their indices."""
        found = [
            ArrayMember(JobSpec.parse(json.dumps(e["spec"]), str(self.path)), e.get("index"), e.get("value"))
            for e in self.entries()
            if "spec" in e
        ]
        return sorted(found, key=lambda member: (member.index is None, member.index or 0))

    def cancelled(self) -> bool:
        return next((bool(e["cancelled"]) for e in reversed(self.entries()) if "cancelled" in e), False)

    def enter(self, header: Mapping[str, Any], members: Sequence[ArrayMember]) -> None:
        """Write the members that are not in it yet; a run of a campaign is in it once, whatever is asked of it."""
        named = "raw_uid" if "campaign" in header else "job_id"
        with self.locked():
            new = not self.path.exists()
            known = set() if new else {entry.get(named) for entry in self.entries()}
            entries = [{"array_id": self.array_id, "by": whoami(), **header}] if new else []
            for member in members:
                spec, place = member.spec, {"index": member.index, "value": member.value}
                entry = {"job_id": spec.job_id, "raw_uid": spec.raw_uid, **place, "spec": spec.model_dump(mode="json")}
                if entry[named] not in known:
                    known.add(entry[named])
                    entries.append(entry)
            self.append(entries)


def array_files() -> list[ArrayFile]:
    """Return the files of all arrays."""
    return [ArrayFile(path.stem) for path in sorted(_folder().glob("*.jsonl"))]


def _folder() -> Path:
    folder = settings().home / "arrays"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_array(text: str) -> ArrayFile:
    """Return the array with an id, or the beginning of one, or of a campaign's uid."""
    found = [f for f in array_files() if text and any(name.startswith(text) for name in (f.array_id, f.name))]
    if len(found) != 1:
        what = "no array" if not found else f"{len(found)} arrays"
        raise DispatchError(
            f"{what} with an id or name that begins with {text!r}; see `ptycho-bluesky jobs array list`"
        )
    return found[0]


def array_of_campaign(campaign: str, spec: JobSpec) -> ArrayFile:
    """Return the array of a campaign's reconstructions as `spec` wants them."""
    asked = {key: value for key, value in asked_of(spec).items() if key != "place"}
    return ArrayFile(str(uuid.uuid5(NAMESPACE, f"{campaign}\n{json.dumps(asked, sort_keys=True)}")))


def asked_of(spec: JobSpec) -> dict[str, Any]:
    """Return what a specification asks for, whatever its run."""
    return spec.model_dump(mode="json", exclude={"source", "raw_uid"}, exclude_defaults=True)


def array_of_jobs(name: str, members: Sequence[ArrayMember]) -> ArrayFile:
    """Return the array of some jobs under a name."""
    jobs = "\n".join([name, *(member.spec.job_id for member in members)])
    return ArrayFile(str(uuid.uuid5(NAMESPACE, jobs)))
