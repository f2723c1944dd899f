"""Several services on a tenant's server: asked, added and taken away while it runs, refused where they cannot be had."""

import json

import pytest
from conftest import ensure_flavor, wait_for

FLAVOR = "m1.tiny.watched"


@pytest.fixture(scope="module")
def watched(admin):
    specs = {
        "mhv:services": "checkpoint,introspection",
        "trait:CUSTOM_MHV_CHECKPOINT": "required",
        "trait:CUSTOM_MHV_INTROSPECTION": "required",
    }
    ensure_flavor(admin.sdk, FLAVOR, 192, specs)
    return FLAVOR


def answered(server, *command):
    """The answer of a layer, once it is up."""

    def answer():
        status, out, err = server.client.run(*command, "-f", "json")
        return json.loads(out) if status == 0 else print(err)

    return wait_for(" ".join(command), answer, 60)


def test_services_of_a_server_that_runs(servers, watched):
    server = servers(watched)
    client = server.client
    processes = answered(server, "server", "introspect", "processes", server.id)
    by_pid = {process["pid"]: process for process in processes}
    assert by_pid[1]["command"]
    assert any(process["kernel_thread"] for process in processes)
    (kernel,) = client.json("server", "introspect", "kernel", server.id)
    assert kernel["banner"].startswith("Linux version")

    client("server", "service", "add", server.id, "integrity", "--configure", '{"epoch_ms": 200}')
    assert {s["name"] for s in listed(client, server)} == {"checkpoint", "introspection", "integrity"}
    alerts = wait_for("the kernel to be measured", lambda: client.json("server", "alert", "list", server.id), 120)
    assert "measured" in json.dumps(alerts)
    server.set("here", "1")
    checkpoint = server.checkpoint("beside layers")
    server.set("here", "2")
    server.restore(checkpoint["id"])
    server.wait_answer()
    assert server.get("here") == "1"
    client("server", "service", "remove", server.id, "integrity")
    assert {s["name"] for s in listed(client, server)} == {"checkpoint", "introspection"}
    answered(server, "server", "introspect", "processes", server.id)
    assert server.status() == "ACTIVE"
    server.assert_sound()


def listed(client, server):
    return [{key.lower(): value for key, value in row.items()} for row in client.json("server", "service", "list", server.id)]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [("mhv:services", "checkpoint,integrity,teleport", "teleport"), ("mhv:configure_integrity", '{"on_finding": "shout"}', "on_finding")],
)
def test_what_no_flavor_can_have_is_refused(admin, key, value, reason):
    status, _, err = admin.run("--os-compute-api-version", "2.86", "flavor", "set", "m1.tiny", "--property", f"{key}={value}")
    assert status != 0 and reason in err


def test_a_configuration_is_taken_by_itself(admin):
    """Nova has each spec checked alone, and the services that go with it may come with another command."""
    setting = """mhv:configure_integrity={"on_finding": "stop"}"""
    flavor = admin.sdk.compute.create_flavor(name="m1.tiny.configured", ram=192, vcpus=1, disk=1)
    try:
        admin("--os-compute-api-version", "2.86", "flavor", "set", "m1.tiny.configured", "--property", setting)
    finally:
        admin.sdk.compute.delete_flavor(flavor.id)


def test_what_a_server_cannot_have_is_refused(servers, watched):
    server = servers(watched)
    status, _, err = server.client.run("server", "service", "add", server.id, "teleport")
    assert status != 0 and "teleport" in err
    status, _, err = server.client.run("server", "service", "remove", server.id, "introspection")
    assert status != 0 and "flavor" in err
