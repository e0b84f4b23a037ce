"""RunEngine and catalogue: raw runs go to Tiled as they come, and what an earlier console left behind follows them."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky import RunEngine

from ptycho_bluesky.catalog import connect, find_reconstructions, resend_backups, tiled_writer
from ptycho_bluesky.dispatch import jobs, register_pending, wait

catalog = connect()
resend_backups(catalog)
register_pending(catalog)

RE = RunEngine()
RE.subscribe(tiled_writer(catalog))
