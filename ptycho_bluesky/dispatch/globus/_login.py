"""Globus Auth: a person's login or a service's credentials, kept where nobody else reads them."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import globus_sdk
from globus_sdk.scopes import ComputeScopes, FlowsScopes, Scope, SpecificFlowScopes, TransferScopes
from globus_sdk.token_storage import JSONTokenStorage

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch.globus._words import LOGIN, services
from ptycho_bluesky.errors import FacilityError

if TYPE_CHECKING:
    from ptycho_bluesky._resources import GlobusResource

__all__ = ["globus_app", "globus_folder", "log_in", "log_out"]

CLIENT_ID, CLIENT_SECRET = "GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET"
"""Variables of the environment with a client's credentials, the names that Globus Compute itself knows."""


def globus_folder() -> Path:
    """Return the folder of tokens and UUIDs, which only its owner can enter."""
    folder = settings().home / "globus"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


def _scopes(resources: list[GlobusResource]) -> dict[str, list[Scope | str]]:
    transfer = TransferScopes.all
    for resource in resources:
        if resource.data_access:
            for collection in filter(None, (resource.collection, resource.here_collection)):
                access = globus_sdk.scopes.GCSCollectionScopes(str(collection)).data_access
                transfer = transfer.with_dependency(access.with_optional(True))
    wanted: dict[str, list[Scope | str]] = {
        str(globus_sdk.ComputeClientV3.resource_server): [ComputeScopes.all],
        globus_sdk.TransferClient.resource_server: [transfer],
        str(globus_sdk.FlowsClient.resource_server): [FlowsScopes.all],
    }
    for flow in {str(resource.flow) for resource in resources if resource.flow is not None}:
        wanted[flow] = [SpecificFlowScopes(flow).user]
    return wanted


def globus_app(resources: list[GlobusResource]) -> globus_sdk.GlobusApp:
    """Return what authorizes requests to the services that these resources need. It never asks for a login by itself.

    With ``GLOBUS_COMPUTE_CLIENT_ID`` and ``GLOBUS_COMPUTE_CLIENT_SECRET`` in the environment, a service's own
    identity; else the person who has logged in by ``ptycho-bluesky globus login``.

    Raises
    ------
    FacilityError
        When a secret is given without its client.
    """
    client_id, secret = os.environ.get(CLIENT_ID), os.environ.get(CLIENT_SECRET)
    if secret and not client_id:
        raise FacilityError(f"{CLIENT_SECRET} is set and {CLIENT_ID} is not; set both, or unset both", "user")
    options: dict[str, Any] = {
        "token_storage": JSONTokenStorage(globus_folder() / ("client.json" if secret else "tokens.json")),
        "request_refresh_tokens": True,
        "token_validation_error_handler": None,  # a job in the background has nobody to ask
    }
    name = f"ptycho-bluesky on {socket.gethostname()}"
    config = globus_sdk.GlobusAppConfig(**options)
    scopes = _scopes(resources)
    if secret:
        service = globus_sdk.ClientApp(
            name, client_id=client_id, client_secret=secret, scope_requirements=scopes, config=config
        )
        with services("logging in as the client of the environment"):
            service.login()
        return service
    from globus_compute_sdk import Client

    native = client_id or Client.FUNCX_SDK_CLIENT_ID
    return globus_sdk.UserApp(name, client_id=native, scope_requirements=scopes, config=config)


def log_in(resources: list[GlobusResource], *, again: bool = False) -> None:
    """Log a person in: an address is shown, to be opened in any browser, and the code that it gives is asked for.

    Parameters
    ----------
    resources:
        Consents are asked for what they need.
    again:
        Also where there is a login that looks valid: after a consent was revoked, or one is missing.

    Raises
    ------
    FacilityError
        When nobody can answer, or Globus Auth refuses it.
    """
    app = globus_app(resources)
    if isinstance(app, globus_sdk.UserApp) and (again or app.login_required()) and not sys.stdin.isatty():
        raise FacilityError(
            f"a login needs a person at a terminal: run `{LOGIN}` there, or set {CLIENT_ID} and {CLIENT_SECRET}", "user"
        )
    with services("logging in"):
        app.login(force=again)


def log_out() -> int:
    """Revoke all tokens and delete them; return how many there were."""
    folder, count = globus_folder(), 0
    app = globus_app([])
    storage = app.token_storage.token_storage
    count = len(storage.get_token_data_by_resource_server())
    with services("revoking the tokens"):
        app.logout(sweep=True)
    for name in ("tokens.json", "client.json"):
        (folder / name).unlink(missing_ok=True)
    return count
