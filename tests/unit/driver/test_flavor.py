#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Extra specs and image properties, alone and as Nova's API validates them."""

import pytest
from nova import exception
from nova.api.validation.extra_specs import validators

from nova_mhv import extra_specs, flavor

FULL = {
    "mhv:services": "checkpoint",
    "mhv:checkpoint_interval_s": "0.025",
    "mhv:checkpoint_keep": "10000",
    "mhv:checkpoint_disks": "none",
    "mhv:checkpoint_overhead_max": "2.5",
    "hw:cpu_policy": "shared",
    "trait:CUSTOM_MHV_CHECKPOINT": "required",
}


def test_an_ordinary_flavor_asks_for_nothing():
    assert flavor.parse({"hw:cpu_policy": "shared"}, {"mhv_checkpoint_keep": "x"}) is None
    assert not flavor.wants({"hw:cpu_policy": "shared"})


def test_every_value():
    assert flavor.parse(FULL) == flavor.Services(("checkpoint",), 0.025, 10000, "none", 2.5)


def test_defaults():
    assert flavor.parse({"mhv:services": "checkpoint"}) == flavor.Services(("checkpoint",), 0.0, 10, "required")


WRONG = [
    ("mhv:services", "ha", "valid: checkpoint"),
    ("mhv:services", "", "valid: checkpoint"),
    ("mhv:services", "checkpoint,checkpoint", "twice"),
    ("mhv:services", "checkpoint,", "valid: checkpoint"),
    ("mhv:services", "c" * 300, "at most 255"),
    ("mhv:checkpoint_interval_s", "0.024", "0.025 to 86400"),
    ("mhv:checkpoint_interval_s", "86401", "0.025 to 86400"),
    ("mhv:checkpoint_interval_s", "-1", "0.025 to 86400"),
    ("mhv:checkpoint_interval_s", "nan", "0.025 to 86400"),
    ("mhv:checkpoint_interval_s", "1e3", "0.025 to 86400"),
    ("mhv:checkpoint_interval_s", "1\n", "0.025 to 86400"),
    ("mhv:checkpoint_interval_s", "٣", "0.025 to 86400"),
    ("mhv:checkpoint_keep", "0", "1 to 10000"),
    ("mhv:checkpoint_keep", "10001", "1 to 10000"),
    ("mhv:checkpoint_keep", "1.5", "1 to 10000"),
    *(
        ("mhv:checkpoint_keep", value, "1m:all,1h:1s,1d:1m")
        for value in (
            *("many", ":", "1m", "1m:", ":all", "1m:all,", "1m:all,1m:1s", "1h:1s,1m:all", "1h:2s,2h:1s", "1m:all,1h:all"),
            *("0s:all", "1m:0s", "1x:all", "1m:1y", "1m:2m", "999999w:all", "1m:all;1h:1s", " 1m:all", "1m:all\n"),
            ",".join(f"{n}h:{n}s" for n in range(1, 10)),
        )
    ),
    ("mhv:checkpoint_disks", "some", "required, best-effort, none"),
    ("mhv:checkpoint_overhead_max", "0", "0.1 to 100 percent"),
    ("mhv:checkpoint_overhead_max", "101", "0.1 to 100 percent"),
    ("mhv:checkpoint_overhead_max", "10%", "0.1 to 100 percent"),
    ("mhv:checkpoints", "1", "mhv:services, mhv:checkpoint_interval_s"),
    ("mhv:", "1", "mhv:services, mhv:checkpoint_interval_s"),
]


@pytest.mark.parametrize(("name", "value", "says"), WRONG)
def test_a_wrong_value_is_refused_with_what_is_valid(name, value, says):
    with pytest.raises(flavor.FlavorError, match=says):
        flavor.parse({"mhv:services": "checkpoint", name: value})


def test_options_without_a_service_are_refused():
    with pytest.raises(flavor.FlavorError, match="add mhv:services=checkpoint"):
        flavor.parse({"mhv:checkpoint_keep": "3"})


@pytest.mark.parametrize(("interval", "image", "result"), [("30", "60", 60.0), ("30", "30", 30.0), ("30", "0", 0.0), ("0", "0", 0.0)])
def test_an_image_may_lengthen_the_interval(interval, image, result):
    specs = {"mhv:services": "checkpoint", "mhv:checkpoint_interval_s": interval}
    assert flavor.parse(specs, {"mhv_checkpoint_interval_s": image}).interval_s == result


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"mhv_checkpoint_interval_s": "29"}, "0, or 30 and more"),
        ({"mhv_checkpoint_keep": "6"}, "1 to 5"),
        ({"mhv_checkpoint_keep": "many"}, "image property mhv_checkpoint_keep"),
        ({"mhv_services": "checkpoint"}, "valid: mhv_checkpoint_interval_s"),
    ],
)
def test_an_image_may_not_raise(properties, says):
    specs = {"mhv:services": "checkpoint", "mhv:checkpoint_interval_s": "30", "mhv:checkpoint_keep": "5"}
    with pytest.raises(flavor.FlavorError, match=says):
        flavor.parse(specs, properties)


def test_an_image_may_lower_what_stays():
    specs = {"mhv:services": "checkpoint", "mhv:checkpoint_keep": "5"}
    assert flavor.parse(specs, {"mhv_checkpoint_keep": "2", "hw_disk_bus": "virtio"}).keep == 2


@pytest.mark.parametrize("keep", ["1m:all", "1m:all,1h:1s,1d:1m", "90s:5s", "520w:1w"])
def test_what_stays_may_be_thinned_by_age(keep):
    assert flavor.parse({"mhv:services": "checkpoint", "mhv:checkpoint_keep": keep}).keep == keep


POLICY = "1m:all,1h:1s,1d:1m"


@pytest.mark.parametrize("image", ["1m:all", "30s:all", "1h:1s", "1h:2s,1d:5m", "2h:1m", POLICY])
def test_an_image_may_keep_less_of_a_policy(image):
    specs = {"mhv:services": "checkpoint", "mhv:checkpoint_keep": POLICY}
    assert flavor.parse(specs, {"mhv_checkpoint_keep": image}).keep == image


@pytest.mark.parametrize(("flavors", "image"), [(POLICY, i) for i in ("2m:all", "2h:1s", "2d:1h", "25h:1m", "5")] + [("5", "1m:all")])
def test_an_image_may_not_keep_more_of_a_policy(flavors, image):
    specs = {"mhv:services": "checkpoint", "mhv:checkpoint_keep": flavors}
    with pytest.raises(flavor.FlavorError, match="asks for more than the flavor gives"):
        flavor.parse(specs, {"mhv_checkpoint_keep": image})


def test_an_image_may_not_start_automatic_checkpoints():
    with pytest.raises(flavor.FlavorError, match="no automatic ones"):
        flavor.parse({"mhv:services": "checkpoint"}, {"mhv_checkpoint_interval_s": "60"})


@pytest.fixture
def registered(monkeypatch):
    """Nova's registry with ours in it, as its entry point puts them there."""
    ours = {validator.name: validator for validator in extra_specs.register()}
    monkeypatch.setattr(validators, "VALIDATORS", {**validators.VALIDATORS, **ours})
    monkeypatch.setattr(validators, "NAMESPACES", validators.NAMESPACES | {"mhv"})


@pytest.mark.parametrize(("name", "value"), FULL.items())
def test_the_api_takes_right_values(registered, name, value):
    validators.validate(name, value)


@pytest.mark.parametrize(("name", "value", "says"), WRONG)
def test_the_api_refuses_wrong_values(registered, name, value, says):
    with pytest.raises(exception.ValidationError, match=says):
        validators.validate(name, value)
