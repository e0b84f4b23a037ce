"""Results into Tiled: once, when it can be reached, and later where it could not."""

from __future__ import annotations

import logging
import time
from typing import Any

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._entry import register_model_of
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.errors import CatalogError, PtychoError

__all__ = ["register_job", "register_pending"]

logger = logging.getLogger(__name__)


def register_job(job: JobFolder, client: Any) -> None:
    """Put the result in a job's folder into Tiled: a reconstruction under the job's id, a model under its hash.

    Raises
    ------
    PtychoError
        When the result cannot be read, or Tiled holds another one under this id.
    httpx.HTTPError
        When Tiled cannot be reached.
    """
    from ptycho_bluesky.catalog import register_reconstruction
    from ptycho_bluesky.formats import read_reconstruction

    if job.spec().recipe == "train":
        register_model_of(job, client)
        return
    result = read_reconstruction(job.result_file)
    register_reconstruction(client, result, job_id=job.job_id, raw_uid=job.spec().raw_uid)


def register_with_patience(job: JobFolder) -> str:
    """Connect and register, again and again for ``settings().tiled_patience_s``; return "" or what stood in the way."""
    import httpx  # here and below: a console that only submits shall not wait for it

    from ptycho_bluesky.catalog import connect

    if job.spec().recipe == "check":
        return ""  # what it found is for whoever asked
    deadline = time.monotonic() + settings().tiled_patience_s
    while True:
        try:
            client = connect(timeout=max(1.0, deadline - time.monotonic()))
            with client.context:
                register_job(job, client)
            return ""
        except (CatalogError, httpx.HTTPError, OSError) as error:
            problem = str(error)
        except Exception as error:  # the result is there and must not be lost over its registration
            logger.exception("job %s could not be registered", job.job_id)
            return f"{type(error).__name__}: {error}"
        if time.monotonic() >= deadline:
            return problem
        time.sleep(1.0)


def register_pending(client: Any, ledger: Ledger | None = None) -> list[str]:
    """Register the results that had to wait for Tiled, each once; runners do so by themselves after their own job.

    Parameters
    ----------
    client:
        From :func:`ptycho_bluesky.catalog.connect`.
    ledger:
        None for the ledger of ``settings().home``.

    Returns
    -------
    list of str
        Ids of the jobs whose results were registered. What fails again is reported in the log, and waits on.
    """
    import httpx

    ledger = ledger or Ledger()
    registered = []
    for job in ledger.pending():
        with file_lock(job.path / "register.lock") as ours:
            if not ours or job.status().registered:
                continue
            try:
                register_job(job, client)
                ledger.record(job, "done", registered=True, reason="")
            except (PtychoError, httpx.HTTPError, OSError) as error:
                logger.error("the result of job %s is still not in Tiled: %s", job.job_id, error)
            else:
                registered.append(job.job_id)
    return registered
