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

import json
import pathlib
import sys

import pytest
from nova import exception
from nova.api.validation.extra_specs import validators

from nova_mhv import extra_specs, flavor, layers

from .base import engine_error

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
    ("mhv:services", "HA", "valid: such as checkpoint, introspection, integrity"),
    ("mhv:services", "", "valid: such as checkpoint"),
    ("mhv:services", "checkpoint,checkpoint", "twice"),
    ("mhv:services", "checkpoint,", "valid: such as checkpoint"),
    ("mhv:services", "x" * 33, "valid: such as checkpoint"),
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
    ("mhv:configure_", "{}", "mhv:configure_SERVICE"),
    ("mhv:configure_../x", "{}", "mhv:configure_SERVICE"),
    *(("mhv:configure_integrity", value, "valid: a JSON object") for value in ("", "hold", "[]", "null", "{", '{"a": NaN}', "[" * 255)),
    ("mhv:configure_integrity", '{"a": "' + "x" * 255 + '"}', "at most 255"),
]


@pytest.mark.parametrize(("name", "value", "says"), WRONG)
def test_a_wrong_value_is_refused_with_what_is_valid(name, value, says):
    with pytest.raises(flavor.FlavorError, match=says):
        flavor.parse({"mhv:services": "checkpoint", name: value})


def test_a_configuration_goes_with_its_service():
    specs = {"mhv:services": "introspection, integrity", "mhv:configure_integrity": '{"on_finding": "stop"}'}
    asked = flavor.parse(specs)
    assert asked.names == ("introspection", "integrity")
    assert asked.configurations == {"integrity": '{"on_finding": "stop"}'}


@pytest.mark.parametrize("name", ["mhv:configure_integrity", "mhv:checkpoint_disks"])
def test_what_is_said_of_a_service_that_is_not_asked_for_is_refused(name):
    value = "none" if name.endswith("disks") else "{}"
    with pytest.raises(flavor.FlavorError, match=f"{name} without the service"):
        flavor.parse({"mhv:services": "introspection", name: value})


def test_what_was_added_stays_behind_what_the_flavor_gives():
    asked = flavor.Services(("checkpoint", "integrity"), 5.0, configurations={"integrity": "flavor"})
    present = flavor.Services(("integrity", "heat-map", "checkpoint"), configurations={"integrity": "old", "heat-map": "x", "gone": "y"})
    merged = asked.with_added(present)
    assert merged.names == ("checkpoint", "integrity", "heat-map") and merged.interval_s == 5.0
    assert merged.configurations == {"integrity": "flavor", "heat-map": "x"}
    assert asked.with_added(None) is asked


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


def put_manifest(folder, name, **fields):
    (folder / name).mkdir(parents=True)
    (folder / name / "manifest.json").write_text(json.dumps({"name": name, **fields}))


@pytest.fixture
def operator(registered, tmp_path):
    """Allows heat-map, whose package is in a folder with others."""
    put_manifest(tmp_path, "heat-map", configuration={"type": "object", "properties": {"top": {"type": "integer"}}})
    put_manifest(tmp_path, "integrity", vendor="nova-mhv")
    extra_specs.CONF.set_override("enabled", ["heat-map"], group="layers")
    extra_specs.CONF.set_override("manifest_dirs", ["/nonexistent", str(tmp_path)], group="layers")
    yield tmp_path
    extra_specs.CONF.clear_override("enabled", group="layers")
    extra_specs.CONF.clear_override("manifest_dirs", group="layers")


def test_services_that_the_operator_allows(operator):
    validators.validate("mhv:services", "checkpoint,introspection,integrity,heat-map")
    validators.validate("mhv:configure_heat-map", '{"top": 5}')


def test_services_that_nobody_allowed_are_refused_with_those_that_are(operator):
    valid = "valid: checkpoint, introspection, integrity, heat-map"
    with pytest.raises(exception.ValidationError, match=f"'ha' is no hypervisor service; {valid}"):
        validators.validate("mhv:services", "ha")
    with pytest.raises(exception.ValidationError, match="'ha' is no hypervisor service"):
        validators.validate("mhv:configure_ha", "{}")


def test_a_configuration_is_checked_against_the_manifest(operator):
    with pytest.raises(exception.ValidationError, match="the configuration of heat-map is wrong at /top: 'many' is not of type 'integer'"):
        validators.validate("mhv:configure_heat-map", '{"top": "many"}')
    for name, value in (("heat-map", '{"tpo": 5}'), ("integrity", '{"on_finding": "stop"}'), ("checkpoint", '{"x": 1}')):
        with pytest.raises(exception.ValidationError, match=f"the configuration of {name} is wrong at /: Additional properties"):
            validators.validate(f"mhv:configure_{name}", value)


def test_a_configuration_is_taken_before_its_services(registered, monkeypatch):
    def refuse(stack):
        raise layers.LayerError(f"{stack} cannot be had alone")

    monkeypatch.setattr(layers, "arbitrate", refuse)
    validators.validate("mhv:configure_integrity", '{"on_finding": "stop"}')
    with pytest.raises(exception.ValidationError, match="cannot be had alone"):
        validators.validate("mhv:services", "checkpoint,integrity")


def test_what_integrity_does_about_a_finding(registered):
    for action in ("alert", "checkpoint", "rollback", "stop"):
        validators.validate("mhv:configure_integrity", json.dumps({"on_finding": action}))
    with pytest.raises(exception.ValidationError, match="wrong at /on_finding.*'panic' is not one of .*rollback"):
        validators.validate("mhv:configure_integrity", '{"on_finding": "panic"}')


def test_services_that_exclude_each_other_are_refused(operator, monkeypatch):
    asked = []

    def decide(manifests):
        asked.append([json.loads(text)["name"] if text.startswith("{") else text for text in manifests])
        if "integrity" not in asked[-1]:
            return
        raise engine_error("unsupported", "heat-map and integrity both trap the kernel's text", "take one of them")

    monkeypatch.setattr(sys.modules["nova_mhv._engine"], "arbitrate", decide, raising=False)
    with pytest.raises(exception.ValidationError, match="heat-map and integrity both trap the kernel's text; take one of them"):
        validators.validate("mhv:services", "checkpoint,integrity,heat-map")
    validators.validate("mhv:services", "introspection,heat-map")
    assert asked == [["checkpoint", "integrity", "heat-map"], ["heat-map"]]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"name": "../x"}', b'{"name": 5}', bytes([255]), b"[" * 60000, b'{"name": "x", "configuration": {"type": 5}}']
    + [b'{"name": "x", "configuration": []}', b'{"name": "x", "configuration": null}']
    + [b'{"name": "x", "y": "' + b"z" * (64 << 10) + b'"}'],
)
def test_what_is_no_manifest_is_left_out(tmp_path, content):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_bytes(content)
    put_manifest(tmp_path, "b")
    assert list(layers.read_manifests([str(tmp_path)])) == ["b"]


def test_of_two_manifests_of_a_name_the_earlier_folders_counts(tmp_path):
    put_manifest(tmp_path / "1", "a", version="1")
    put_manifest(tmp_path / "2", "a", version="2")
    put_manifest(tmp_path / "2", "b", version="2")
    found = layers.read_manifests([str(tmp_path / "1"), str(tmp_path / "2")])
    assert {name: json.loads(text)["version"] for name, text in found.items()} == {"a": "1", "b": "2"}


def test_of_what_is_installed_the_newest_version_counts(tmp_path):
    def install(name, version):
        put_manifest(tmp_path / name, version)
        (tmp_path / name / version / "manifest.json").write_text(json.dumps({"name": name, "version": version}))

    for version in ("1.9", "1.10", "0.99"):
        install("a", version)
    install("b", "2")
    put_manifest(tmp_path / ".new-x", "c")
    found = layers.read_manifests([str(tmp_path)])
    assert {name: json.loads(text)["version"] for name, text in found.items()} == {"a": "1.10", "b": "2"}


def test_no_manifests_are_fine(tmp_path):
    assert layers.read_manifests([str(tmp_path / "missing")]) == {}


def test_a_folder_that_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    put_manifest(tmp_path, "a")
    glob = pathlib.Path.glob

    def fail_for_the_first(folder, pattern):
        if folder == pathlib.Path("/secret"):
            raise PermissionError(13, "Permission denied", "/secret")
        return glob(folder, pattern)

    monkeypatch.setattr(pathlib.Path, "glob", fail_for_the_first)
    assert list(layers.read_manifests(["/secret", str(tmp_path)])) == ["a"]
