"""The whole sequence that a tenant types, and what another tenant may see of it."""

import subprocess

import pytest


@pytest.fixture(scope="module")
def s1(demo):
    from conftest import Server

    server = Server(demo, "m1.tiny.checkpoint").up()
    yield server
    server.delete()


def test_flavor_says_what_it_asks_for(demo):
    properties = demo.json("flavor", "show", "m1.tiny.checkpoint")["properties"]
    assert properties["mhv:services"] == "checkpoint"
    assert properties["trait:CUSTOM_MHV_CHECKPOINT"] == "required"


def test_checkpoint_damage_restore(s1, demo):
    s1.set("colour", "green")
    first = s1.checkpoint("before-upgrade")
    listed = {row["ID"]: row for row in s1.checkpoints()}
    assert listed[first["id"]]["Name"] == "before-upgrade"
    assert listed[first["id"]]["State"] == "available"

    ports_before = [p.id for p in demo.sdk.network.ports(device_id=s1.id)]
    s1.set("colour", "red")
    s1.set("damage", "done")
    second = s1.checkpoint("damaged")
    assert second["parent"] == first["id"]
    assert second["pages"] < first["pages"], "the second checkpoint holds only what changed"

    s1.restore(first["id"])
    assert s1.get("colour") == "green"
    assert s1.get("damage") is None
    s1.assert_sound()
    assert s1.status() == "ACTIVE"
    assert [p.id for p in demo.sdk.network.ports(device_id=s1.id)] == ports_before

    branch = s1.checkpoint("branch")
    assert branch["parent"] == first["id"], "the chain goes on from the restored point"
    s1.restore(second["id"])
    assert s1.get("colour") == "red"
    s1.assert_sound()


def test_show_and_delete(s1, demo):
    made = s1.checkpoint("short-lived")
    shown = demo.json("server", "checkpoint", "show", s1.id, made["id"])
    assert shown["name"] == "short-lived"
    demo("server", "checkpoint", "delete", s1.id, made["id"])
    status, _, err = demo.run("server", "checkpoint", "show", s1.id, made["id"])
    assert status != 0 and made["id"] in err


def test_export_is_a_libvirt_save_image(s1, demo, tmp_path):
    made = s1.checkpoint("to-export")
    target = tmp_path / "s1.save"
    demo("server", "checkpoint", "export", s1.id, made["id"], "--file", str(target), timeout=600)
    assert target.read_bytes()[:16] == b"LibvirtQemudSave"
    status, _, err = demo.run("server", "checkpoint", "export", s1.id, made["id"], "--file", str(target))
    assert status != 0 and "already there" in err


def test_another_project_sees_nothing(s1, other):
    made = s1.checkpoint("private")
    for command in (
        ("list", s1.id),
        ("show", s1.id, made["id"]),
        ("create", s1.id),
        ("restore", s1.id, made["id"]),
        ("delete", s1.id, made["id"]),
    ):
        status, out, err = other.run("server", "checkpoint", *command)
        assert status != 0, command
        assert made["id"] not in out, command
    assert made["id"] in {row["ID"] for row in s1.checkpoints()}, "nothing was deleted"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("mhv:services", "checkpoint,teleport", "checkpoint"),
        ("mhv:checkpoint_interval_s", "-1", "mhv:checkpoint_interval_s"),
        ("mhv:checkpoint_keep", "many", "mhv:checkpoint_keep"),
        ("mhv:chekpoint_keep", "5", "mhv:"),
    ],
)
def test_wrong_specs_are_refused_at_flavor_time(admin, key, value, expected):
    status, _, err = admin.run("--os-compute-api-version", "2.86", "flavor", "set", "m1.tiny", "--property", f"{key}={value}")
    assert status != 0
    assert expected in err


def test_a_server_without_the_service_has_no_checkpoints(servers, demo):
    plain = servers("m1.tiny")
    status, _, err = demo.run("server", "checkpoint", "create", plain.id, "--wait")
    assert status != 0
    assert "flavor" in err, err


def test_the_demo_program_tells_its_options():
    from conftest import DEVSTACK

    out = subprocess.run([DEVSTACK / "demo", "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--hosts", "--status", "--stop"):
        assert option in out
