"""Jobs at a remote facility, through Globus Compute, Transfer, Flows and Auth.

Needs ``pip install ptycho-bluesky[globus]``; only what talks to Globus imports its packages.
"""

from ptycho_bluesky.dispatch.globus._launcher import GlobusLauncher

__all__ = ["GlobusLauncher"]
