"""The command ``ptycho-bluesky``: demo, replay, reconstruct, infer, train, jobs, doctor."""

from ptycho_bluesky.cli._app import app, main

__all__ = ["app", "main"]
