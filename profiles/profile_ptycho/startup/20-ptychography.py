"""Plan, live image and dispatched reconstruction: RE(ptycho_scan([detector], stage.y, stage.x, pattern, metadata=metadata))."""

from ptycho_bluesky.callbacks import Console, DispatchOnStop, LiveInference
from ptycho_bluesky.experiment.patterns import *
from ptycho_bluesky.plans import *

live = LiveInference()
RE.subscribe(live)
dispatch = DispatchOnStop()
RE.subscribe(dispatch)
console = Console(live, catalog=catalog, dispatch=dispatch)
RE.subscribe(console)
RE.waiting_hook = console.waiting
