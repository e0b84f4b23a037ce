"""There and back: pack, transfer out, compute, transfer back, adopt; each step once, however often that is broken."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptycho_bluesky._resources import GlobusResource
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch.globus._adopt import adopt
from ptycho_bluesky.dispatch.globus._compute import Compute
from ptycho_bluesky.dispatch.globus._deployed import DeployedFlow
from ptycho_bluesky.dispatch.globus._login import globus_app
from ptycho_bluesky.dispatch.globus._packing import OUT, pack, questions
from ptycho_bluesky.dispatch.globus._steps import Steps
from ptycho_bluesky.dispatch.globus._transfer import Transfer
from ptycho_bluesky.dispatch.globus.facility import made_by
from ptycho_bluesky.errors import FacilityError

__all__ = ["BACK", "Flow"]

logger = logging.getLogger("ptycho_bluesky.globus")

BACK = "back"
"""Folder of a job with the files that came back."""

PATIENCE_S = 1800.0
"""Longest time that Globus may be away while a job is at work there."""

RECALL_S = 10.0
"""Longest time that a cancelled job's facility may take to say that it has heard it."""


class Flow:
    """A job's way to the facility and back.

    Parameters
    ----------
    job, spec:
        Here.
    resource:
        The facility.
    terminated:
        Asked often; True leaves everything as it is, to be taken up again.
    tell:
        Called with news of progress.
    """

    def __init__(
        self,
        job: JobFolder,
        spec: JobSpec,
        resource: GlobusResource,
        terminated: Callable[[], bool],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.job, self.spec, self.resource, self.tell = job, spec, resource, tell
        self.steps, self._terminated = Steps(job), terminated
        self.app = globus_app([resource])
        self.compute = Compute(self.app, resource)

    def given_up(self) -> bool:
        return self._terminated() or self.job.cancel_file.exists()

    def run(self) -> Path | None:
        """Return the file that is the result, in the job's folder; None where the job was given up.

        Raises
        ------
        FacilityError
            When a step fails: a retry begins there.
        """
        middle = [("flow", self._deployed)] if self.resource.flow is not None else []
        own = [("transfer out", self._out), ("compute", self._compute), ("transfer back", self._back)]
        for name, act in [("pack", self._pack), *(middle or own)]:
            if self.steps.done(name):
                continue
            if self.given_up() and not self.steps.of(name):
                return None
            self.tell({"stage": name})
            self.steps.note(name)
            try:
                said = act()
            except FacilityError as error:
                raise FacilityError(f"{name}: {error}", error.kind) from error
            if said is None:
                return None
            self.steps.finish(name, said)
        self.tell({"stage": "adopt"})
        return adopt(self.job, self.spec, self.steps, self.answer())

    def recall(self) -> None:
        """Ask the facility to cancel what is still at work there for this job; nothing where nothing is."""
        if self.resource.flow is not None:
            DeployedFlow(self).recall()
        elif "task_id" in self.steps.of("compute") and not self.steps.done("compute"):
            self.compute.submit({"do": "ask", "job_id": self.job.job_id, "what": "cancel"}, watching=True)
            self.steps.forget("compute")

    def answer(self) -> dict[str, Any]:
        """Return what the facility said of the job when it had ended."""
        name = "flow" if self.resource.flow is not None else "compute"
        return dict(self.steps.of(name)["answer"])

    def _pack(self) -> str | None:
        self.compute.check_online()
        seen = self.compute.ask(
            {"do": "see", **questions(self.job, self.spec)}, self.resource.answer_s, self.given_up, watching=True
        )
        if seen is None:
            return None
        packed = pack(self.job, self.spec, seen, self.resource.collection is not None, self.given_up)
        if packed is None:
            return None
        noted = {"spec": packed.spec, "files": packed.files, "source": packed.source}
        self.steps.note("pack", **noted, there=seen["home"], shared=seen["files"][0])
        return packed.said

    def transfer(self) -> Transfer:
        """Return what copies files."""
        return Transfer(self.app, self.resource, str(settings().home), str(self.steps.of("pack")["there"]))

    def names(self, *, out: bool) -> list[tuple[str, str]]:
        """Return the files that travel: paths below this home and below the facility's."""
        job = f"jobs/{self.job.job_id}"
        if out:
            return [(f"{job}/{OUT}/{name}", f"{job}/{name}") for name in self.steps.of("pack")["files"]]
        return [(f"{job}/{BACK}/{name}", f"{job}/{name}") for name in made_by(self.spec.recipe)]

    def _out(self) -> str | None:
        names = self.names(out=True)
        return self._move("transfer out", names, out=True) if names else "nothing needs to travel"

    def _move(self, step: str, names: list[tuple[str, str]], *, out: bool) -> str | None:
        transfer = self.transfer()
        items = transfer.items(names, out=out)
        if "submission" not in self.steps.of(step):
            self.steps.note(step, submission=transfer.submission())
        if "task_id" not in self.steps.of(step):
            label = f"ptycho-bluesky {self.job.job_id[:8]} {step}"
            task_id = transfer.submit(items, str(self.steps.of(step)["submission"]), label, out=out)
            self.steps.note(step, task_id=task_id)
        try:
            if not transfer.wait(str(self.steps.of(step)["task_id"]), self.given_up, self.tell):
                self.steps.forget(step)
                return None
        except FacilityError:
            self.steps.forget(step)  # a retry submits a new one
            raise
        return f"{len(items)} files, task {self.steps.of(step)['task_id']}"

    def request(self) -> dict[str, Any]:
        """Return what the facility is asked to do."""
        spec = self.steps.of("pack")["spec"]
        return {"do": "run", "job_id": self.job.job_id, "spec": spec, "slots": self.resource.max_jobs}

    def _compute(self) -> str | None:
        if "task_id" not in self.steps.of("compute"):
            if self.given_up():
                return None
            self.compute.check_online()
            self.steps.note("compute", **self.compute.submit(self.request()))
        answer = self._await(str(self.steps.of("compute")["task_id"]))
        return None if answer is None else self.settle("compute", answer)

    def settle(self, step: str, answer: dict[str, Any]) -> str | None:
        """Take what the facility said; only "done" is a success.

        Raises
        ------
        FacilityError
            In the facility's own words.
        """
        for event in answer.get("history", []):
            when = time.strftime("%H:%M:%S", time.localtime(event["t"]))
            words = event.get("reason") or event.get("asked") or ""
            self.steps.tell(f"at the facility {when}: {event['state']} {words}".strip())
        if answer["state"] == "done":
            self.steps.note(step, answer={key: answer[key] for key in ("files", "facility", "progress", "stopped")})
            return f"done at {answer['facility']['host']}"
        self.steps.forget(step)  # a retry runs it again; what the facility has finished is not done twice
        if answer["state"] == "cancelled" and self.given_up():
            return None
        with self.job.log_file.open("a") as log:
            log.write(f"--- log at the facility\n{answer.get('log', '')}\n--- end of it\n")
        said = answer.get("reason") or "no reason was given"
        raise FacilityError(f"the facility says {answer['state']}: {said}", answer.get("kind") or "machine")

    def _await(self, task_id: str) -> dict[str, Any] | None:
        """Wait for the end of the work there: looks tell of progress, and a wish to stop or to cancel is passed on."""
        look: str | None = None
        wished, since, trouble_since = "", 0.0, 0.0
        while True:
            if self._terminated():
                return None
            wish = "cancel" if self.job.cancel_file.exists() else "stop" if self.job.stop_file.exists() else ""
            try:
                if wish and wish != wished:
                    wished, since = wish, time.monotonic()
                    self.compute.submit({"do": "ask", "job_id": self.job.job_id, "what": wish}, watching=True)
                    self.steps.tell(f"compute: the facility was asked to {wish}")
                look = look or self.compute.submit({"do": "look", "job_id": self.job.job_id}, watching=True)["task_id"]
                answers = self.compute.answers([task_id, look])
                trouble_since = 0.0
            except FacilityError as error:
                trouble_since = trouble_since or time.monotonic()
                if error.kind != "machine" or time.monotonic() - trouble_since > PATIENCE_S:
                    raise
                logger.warning("%s; the job goes on there", error)
                answers = {}
            found = answers.get(task_id)
            if isinstance(found, FacilityError):
                self.steps.forget("compute")
                raise found
            if found is not None:
                return found
            if wished == "cancel" and time.monotonic() - since > RECALL_S:
                self.steps.forget("compute")  # a retry asks anew
                return None
            look = self._looked(look, answers)
            self._pause(wished)

    def _looked(self, look: str | None, answers: dict[str, Any]) -> str | None:
        """Pass on the news of a look; return its task while it waits for an answer."""
        news = None if look is None else answers.get(look)
        if isinstance(news, dict):
            self.tell({**news.get("progress", {}), "stage": "compute", "state_there": news["state"]})
        elif isinstance(news, FacilityError):
            logger.warning("no look at the job: %s", news)
        return look if news is None else None

    def _pause(self, wished: str) -> None:
        """Pause until the next look; a new wish is passed on at once."""
        until = time.monotonic() + (min(1.0, self.resource.poll_s) if wished else self.resource.poll_s)
        while time.monotonic() < until and not self._terminated():
            if (self.job.cancel_file.exists() and wished != "cancel") or (self.job.stop_file.exists() and not wished):
                return
            time.sleep(0.1)

    def _back(self) -> str | None:
        files, folder = self.answer()["files"], self.job.path / BACK
        folder.mkdir(exist_ok=True)
        packed = self.steps.of("pack")
        theirs = Path(packed["there"]) / "jobs" / self.job.job_id
        for name, known in files.items():
            if (packed["shared"] or self.resource.collection is None) and _hash(theirs / name) == known["sha256"]:
                shutil.copyfile(theirs / name, folder / name)
        missing = [name for name, known in files.items() if _hash(folder / name) != known["sha256"]]
        if not missing:
            return "the facility's folder is seen from here"
        if self.resource.collection is None:
            raise FacilityError(
                f"{', '.join(missing)} cannot be fetched: {theirs} is not seen from here and the resource names no "
                "collections; give collection and here_collection, then retry the job",
                "user",
            )
        job = f"jobs/{self.job.job_id}"
        said = self._move("transfer back", [(f"{job}/{BACK}/{name}", f"{job}/{name}") for name in missing], out=False)
        wrong = [name for name, known in files.items() if said and _hash(folder / name) != known["sha256"]]
        if wrong:
            self.steps.forget("transfer back")
            raise FacilityError(f"{', '.join(wrong)} came back damaged; retry the job")
        return said

    def _deployed(self) -> str | None:
        answer = DeployedFlow(self).run()
        return None if answer is None else self.settle("flow", answer)


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file, or "" where it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
