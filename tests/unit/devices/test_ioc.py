"""The IOC's records, without a network: what clients would read and write."""

import asyncio

import h5py
import numpy as np
import pytest

from ptycho_bluesky.devices import replay_beamline, simulated_beamline
from ptycho_bluesky.devices.ioc import BeamlineIoc, Records
from ptycho_bluesky.errors import DeviceError
from ptycho_bluesky.experiment import PtychoDataset


@pytest.fixture
def ioc(tmp_path):
    beamline = simulated_beamline(
        frame_size=64, field_m=(1e-6, 1e-6), folder=tmp_path, speedup=1e3, stage_errors=None, seed=3
    )
    return BeamlineIoc(beamline, "T:", "eiger")


def test_records_convert_check_and_tell():
    records = Records("X:")
    number, choice = records.pair("Number", 1.5), records.add("Choice", False)
    seen = []
    number.watchers.append(seen.append)
    asyncio.run(number.put("2.5"))
    assert seen == [2.5] and records["Number_RBV"].value == 2.5
    asyncio.run(choice.put("On"))
    assert choice.value == 1 and [r.name for r in records] == ["X:Number", "X:Number_RBV", "X:Choice"]
    for record, value, text in (
        (number, "much", "X:Number was given 'much'; allowed is a float"),
        (choice, "Maybe", "allowed are Off, On"),
        (choice, 7, "allowed are Off, On"),
        (records["Number_RBV"], 1.0, "X:Number_RBV is read-only"),
    ):
        with pytest.raises(DeviceError, match=text):
            asyncio.run(record.put(value))


def test_a_motor_moves_tells_its_end_and_keeps_its_limits(ioc):
    records, seen = ioc.records, []
    records["m1.DMOV"].watchers.append(seen.append)
    asyncio.run(records["m1.VAL"].put(0.33333))
    assert seen == [0, 1] and records["m1.RBV"].value == pytest.approx(0.3333, abs=1e-9)
    asyncio.run(records["m1.VAL"].put(1e6))
    assert records["m1.LVIO"].value == 1 and records["m1.VAL"].value == 0.33333 and seen == [0, 1]


def test_a_stalled_motor_ends_when_it_is_told_to_stop(ioc):
    records = ioc.records

    async def stalled():
        await records["Fault:Stage"].put("Stall")
        move = asyncio.ensure_future(records["m2.VAL"].put(0.2))
        await asyncio.sleep(0.2)
        assert not move.done() and records["m2.DMOV"].value == 0
        await records["m2.STOP"].put(1)
        await asyncio.wait_for(move, 2)

    asyncio.run(stalled())
    assert records["m2.DMOV"].value == 1 and records["m2.RBV"].value == pytest.approx(0.1, abs=1e-3)


def test_frames_are_written_where_the_plugin_was_told(ioc, tmp_path):
    records, images = ioc.records, []
    records["Pva1:Image"].watchers.append(images.append)

    async def take():
        for name, value in (
            ("HDF1:FilePath", f"{tmp_path}"), ("HDF1:FileName", "f"), ("HDF1:FileTemplate", "%s%s_%3.3d.h5"),
            ("HDF1:Capture", 1), ("cam1:ImageMode", "Multiple"), ("cam1:NumImages", 3), ("cam1:Acquire", 1),
        ):  # fmt: skip
            await records[name].put(value)

    asyncio.run(take())
    assert records["HDF1:NumCaptured_RBV"].value == records["cam1:ArrayCounter_RBV"].value == 3
    assert records["cam1:Acquire_RBV"].value == 0 and records["HDF1:FileNumber"].value == 1
    with h5py.File(tmp_path / "f_000.h5", swmr=True) as file:
        assert (file["entry/data/data"][:] == np.stack(images)).all()
    asyncio.run(records["HDF1:Capture"].put(0))
    asyncio.run(records["HDF1:FilePath"].put("/not/there"))
    assert records["HDF1:FilePathExists_RBV"].value == 0


def test_a_silent_detector_is_aborted(ioc):
    records = ioc.records

    async def hang():
        await records["Fault:Detector"].put("Hang")
        exposure = asyncio.ensure_future(records["cam1:Acquire"].put(1))
        await asyncio.sleep(0.1)
        assert not exposure.done() and records["cam1:DetectorState_RBV"].value == 1
        await records["cam1:Acquire"].put(0)
        await asyncio.wait_for(exposure, 2)

    asyncio.run(hang())
    assert records["cam1:ArrayCounter"].value == 0 and records["cam1:Acquire_RBV"].value == 0


def test_the_seed_starts_everything_anew(ioc):
    def frame():
        asyncio.run(ioc.records["Seed"].put(3))
        asyncio.run(ioc.records["m1.VAL"].put(0.2))
        asyncio.run(ioc.records["cam1:Acquire"].put(1))
        return np.array(ioc.records["Pva1:Image"].value)

    assert (frame() == frame()).all()


def test_a_measurement_is_served_too(tmp_path):
    positions = np.stack([np.zeros(4), np.arange(4) * 5.0], axis=1)
    frames = np.arange(4, dtype=np.uint16)[:, None, None] + np.zeros((1, 16, 16), np.uint16)
    ioc = BeamlineIoc(replay_beamline(PtychoDataset(frames, positions), folder=tmp_path))
    asyncio.run(ioc.records["m2.VAL"].put(10.0))
    asyncio.run(ioc.records["cam1:Acquire"].put(1))
    assert (ioc.records["Pva1:Image"].value == 2).all()
    assert "SIM:energy.VAL" not in {record.name for record in ioc.records}
