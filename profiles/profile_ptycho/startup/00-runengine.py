"""RunEngine and catalogue: raw runs go to Tiled as they come, and what an earlier console left behind follows them."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky import RunEngine

from ptycho_bluesky.catalog import connect_later, find_reconstructions, resend_backups, tiled_writer
from ptycho_bluesky.dispatch import jobs, register_pending, wait

catalog = connect_later(resend_backups, register_pending)  # in the background: the prompt does not wait for Tiled

RE = RunEngine()
RE.subscribe(tiled_writer(catalog))
