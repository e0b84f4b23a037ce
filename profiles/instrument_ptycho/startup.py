"""RunEngine, catalogue, devices and callbacks from configs/; for IPython, notebooks and the queue server alike."""

from pathlib import Path
from pydoc import locate

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import yaml
from bluesky import RunEngine

from ptycho_bluesky.callbacks import Console, DispatchOnStop, LiveInference
from ptycho_bluesky.catalog import connect_later, resend_backups, tiled_writer
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import register_pending
from ptycho_bluesky.plans import *

CONFIGS = Path(__file__).parent / "configs"
iconfig = yaml.safe_load((CONFIGS / "iconfig.yml").read_text())

RE = RunEngine(iconfig["RUN_ENGINE"]["DEFAULT_METADATA"])
catalog = connect_later(resend_backups, register_pending)
RE.subscribe(tiled_writer(catalog))

for creator, entries in yaml.safe_load((CONFIGS / "devices.yml").read_text()).items():
    if (make := locate(creator)) is None:
        raise ImportError(f"{CONFIGS / 'devices.yml'}: there is no {creator!r}; correct the name, or install what has it")
    for entry in entries:
        arguments = dict(entry)
        name = arguments.pop("name")
        if creator.startswith("ptycho_bluesky.devices.simulated"):
            arguments.setdefault("folder", settings().home / "beamlines" / name)
        globals()[name] = make(**arguments)

stage, detector, metadata = beamline.stage, beamline.detector, beamline.metadata

live = dispatch = None
if iconfig["LIVE_INFERENCE"]["ENABLE"]:
    live = LiveInference(iconfig["LIVE_INFERENCE"]["MODEL"])
    RE.subscribe(live)
if iconfig["DISPATCH"]["ENABLE"]:
    dispatch = DispatchOnStop(iconfig["DISPATCH"]["ENGINE"])
    RE.subscribe(dispatch)
console = Console(live, catalog=catalog, dispatch=dispatch)
RE.subscribe(console)
RE.waiting_hook = console.waiting
