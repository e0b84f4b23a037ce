"""What bluesky-queueserver makes of the plans; no Redis is needed for that."""

import inspect

import pytest

import ptycho_bluesky.plans as plans

profile_ops = pytest.importorskip("bluesky_queueserver.manager.profile_ops", reason="needs the extra queueserver")

NAMES = sorted(name for name in plans.__all__ if name.startswith("ptycho_"))


@pytest.fixture(scope="module")
def listed(flying_beamline):
    space = {name: getattr(plans, name) for name in NAMES}
    space |= {"stage": flying_beamline.stage, "detector": flying_beamline.detector, "flyer": flying_beamline.flyer}
    found = profile_ops.existing_plans_and_devices_from_nspace(nspace=space)
    return found[0], found[1]


def test_every_plan_is_listed(listed):
    assert sorted(listed[0]) == NAMES and len(NAMES) == 8
    assert {"stage", "detector", "flyer"} <= set(listed[1])
    assert listed[1]["flyer"]["is_flyable"] and listed[1]["detector"]["is_readable"]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_type_and_a_description(listed, name):
    described = listed[0][name]
    assert described["description"]
    known = {parameter["name"]: parameter for parameter in described["parameters"]}
    assert list(known) == list(inspect.signature(getattr(plans, name)).parameters)
    for parameter in known.values():
        assert parameter.get("description"), parameter["name"]
        assert "annotation" in parameter and parameter["annotation"]["type"]
    assert "__READABLE__" in str(known["detectors"]) or "__FLYABLE__" in str(known["detectors"])


@pytest.mark.parametrize(
    ("plan", "kwargs"),
    [
        ("ptycho_scan", {}),
        ("ptycho_tomo", {"rotation": "stage.rotation", "angles_deg": [0, 1.5]}),
        ("ptycho_series", {"count": 3, "interval_s": 60}),
        ("ptycho_energies", {"energy": "stage.rotation", "energies_kev": [8, 9], "energy_unit": "eV"}),
    ],
)
def test_plain_values_are_accepted(listed, plan, kwargs):
    item = {
        "item_type": "plan",
        "name": plan,
        "kwargs": {
            "detectors": ["detector"],
            "y": "stage.y",
            "x": "stage.x",
            "pattern": {"name": "fermat", "height_m": 1e-6, "width_m": 1e-6, "step_m": 1e-7},
            "metadata": {"frames_key": "detector_image", "position_keys": ["stage_y", "stage_x"]},
            "limits": {"max_seconds": 60},
            **kwargs,
        },
    }
    accepted, message = profile_ops.validate_plan(item, allowed_plans=listed[0], allowed_devices=listed[1])
    assert accepted, message
    refused, message = profile_ops.validate_plan(
        {**item, "kwargs": {**item["kwargs"], "colour": "red"}}, allowed_plans=listed[0], allowed_devices=listed[1]
    )
    assert not refused and "colour" in message


@pytest.mark.parametrize("wrong", [{"exposure_s": -1.0}, {"metadata": "none"}, {"count": 0}, {"limits": 3600}])
def test_wrong_values_are_refused_before_they_are_queued(listed, wrong):
    kwargs = {"detectors": ["detector"], "y": "stage.y", "x": "stage.x", "pattern": {}, "metadata": {}, "count": 2}
    for given, expected in ((kwargs, True), ({**kwargs, **wrong}, False)):
        item = {"item_type": "plan", "name": "ptycho_series", "kwargs": given}
        accepted, message = profile_ops.validate_plan(item, allowed_plans=listed[0], allowed_devices=listed[1])
        assert accepted is expected, message
