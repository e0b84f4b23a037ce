"""What the services of Globus say, in plain words with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import globus_sdk
from globus_sdk.token_storage import TokenValidationError

from ptycho_bluesky.errors import FacilityError

__all__ = ["LOGIN", "checked_answer", "in_words", "of_exception", "services"]

LOGIN = "ptycho-bluesky globus login"

SPACE = ("NO_SPACE", "QUOTA", "No space left", "Disk quota", "ENOSPC", "EDQUOT")


def _said(error: globus_sdk.GlobusAPIError) -> str:
    raw = error.raw_json or {}
    text = raw.get("reason") or error.message or error.text or error.http_reason
    return " ".join(str(text).split())[:300]


def in_words(error: globus_sdk.GlobusError, what: str) -> FacilityError:
    """Return an error of the SDK as ours; `what` is the act that failed."""
    if isinstance(error, TokenValidationError):
        return FacilityError(f"{what}: there is no valid Globus login ({error}); run `{LOGIN}`", "user")
    if isinstance(error, globus_sdk.AuthAPIError):
        return FacilityError(
            f"{what}: Globus Auth refuses the login ({_said(error)}): it has expired, or its consent was revoked; run "
            f"`{LOGIN}`, or correct GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET",
            "user",
        )
    if not isinstance(error, globus_sdk.GlobusAPIError):
        return FacilityError(f"{what}: Globus cannot be reached ({error}); check the network, then retry the job")
    said, status = _said(error), error.http_status
    if error.info.consent_required or error.info.authorization_parameters:
        return FacilityError(f"{what}: a consent is missing ({said}); run `{LOGIN} --again`", "user")
    if status == 401:
        return FacilityError(f"{what}: the Globus login is not accepted ({said}); run `{LOGIN} --again`", "user")
    if status == 429:
        return FacilityError(f"{what}: too many requests for now ({said}); retry the job in a minute")
    if status == 413 or "PAYLOAD" in said.upper():
        return FacilityError(f"{what}: too large for Globus Compute ({said}); name files, do not embed data", "user")
    if "FUNCTION_NOT_PERMITTED" in f"{error.code} {said}":
        return FacilityError(
            f"{what}: the endpoint does not allow this function ({said}); ask its administrator to add the UUID that "
            "`ptycho-bluesky globus check` tells to allowed_functions, or set function in the resource",
            "user",
        )
    if status == 403:
        return FacilityError(f"{what}: not permitted ({said}); ask for access, or log in as who has it", "user")
    if status == 404:
        return FacilityError(f"{what}: not known there ({said}); correct its UUID in the resource", "user")
    if status >= 500:
        return FacilityError(f"{what}: the service has a fault of its own ({status}: {said}); retry the job later")
    return FacilityError(f"{what}: refused ({status}: {said})", "user")


@contextmanager
def services(what: str) -> Iterator[None]:
    """Turn errors of the SDK within the block into ours."""
    try:
        yield
    except globus_sdk.GlobusError as error:
        raise in_words(error, what) from error


def of_exception(text: str) -> FacilityError:
    """Return why a task failed at the endpoint, given the traceback that came back."""
    lines = [line.strip(" |") for line in text.strip().splitlines() if line.strip(" |+-*")]
    last = next((line for line in reversed(lines) if "Error" in line or "Exception" in line or "Lost" in line), "")
    said = " ".join((last or (lines[-1] if lines else "no reason was given")).split())[:300]
    if "No module named 'ptycho_bluesky" in text:
        return FacilityError(
            f"the endpoint's workers lack ptycho-bluesky ({said}); install the version of this machine there "
            "(worker_init of the endpoint's configuration names the environment)",
            "user",
        )
    if "No module named" in text:
        return FacilityError(f"a package is missing at the endpoint ({said}); install it there", "user")
    if any(word in text for word in ("WorkerLost", "ManagerLost", "BadStateException")):
        return FacilityError(f"the endpoint lost the worker of this task ({said}), e.g. at its walltime; retry the job")
    if "MaxResultSizeExceeded" in text:
        return FacilityError(f"the answer was too large for Globus Compute ({said})", "internal")
    return FacilityError(f"the task failed at the endpoint: {said}", "internal")


def checked_answer(answer: Any) -> dict[str, Any]:
    """Return what the facility's function answered, which must be an answer of ours and no refusal."""
    if not isinstance(answer, dict):
        raise FacilityError(f"the facility answered {str(answer)[:100]!r}; correct function in the resource", "user")
    if "refused" in answer:
        raise FacilityError(f"the facility refused: {answer['refused']}", str(answer.get("kind", "user")))
    return answer
