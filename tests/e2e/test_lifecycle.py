"""What a tenant or an operator does to a server beside its checkpoints: the service goes on, and is right afterwards."""

import pytest
from conftest import wait_for


@pytest.fixture
def server(servers):
    server = servers()
    server.set("mark", "before")
    server.first = server.checkpoint("first")
    return server


def goes_on(server):
    """A new checkpoint and a restore are right on what the guest is now, and the first checkpoint is still there."""
    made = goes_on_after_a_move(server)
    assert {server.first["id"], made["id"]} <= {row["ID"] for row in server.checkpoints()}


def goes_on_after_a_move(server):
    """As goes_on(), where earlier checkpoints may have ended with the disk that they belong to."""
    server.wait_answer()
    server.set("mark", "kept")
    made = server.checkpoint()
    server.set("mark", "lost")
    server.restore(made["id"])
    assert server.get("mark") == "kept"
    server.assert_sound()
    return made


def test_stop_and_start(server):
    server.action("stop_server")
    server.wait_status("SHUTOFF")
    assert server.first["id"] in {row["ID"] for row in server.checkpoints()}
    server.action("start_server")
    server.wait_status("ACTIVE")
    goes_on(server)


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
def test_reboot(server, kind):
    server.action("reboot_server", reboot_type=kind)
    server.wait_status("ACTIVE")
    goes_on(server)


def test_pause_and_unpause(server, demo):
    server.action("pause_server")
    server.wait_status("PAUSED")
    server.action("unpause_server")
    server.wait_status("ACTIVE")
    assert server.get("mark") == "before"
    goes_on(server)


def test_suspend_and_resume(server):
    server.action("suspend_server")
    server.wait_status("SUSPENDED")
    server.action("resume_server")
    server.wait_status("ACTIVE")
    server.wait_answer()
    assert server.get("mark") == "before"
    goes_on(server)


def test_shelve_and_unshelve(server, host):
    server.action("shelve_server")
    server.wait_status("SHELVED_OFFLOADED")
    host.assert_told_of_the_cut(server, "shelved")
    server.action("unshelve_server")
    server.wait_status("ACTIVE")
    goes_on_after_a_move(server)


def test_resize_and_back(server, demo):
    flavor = demo.sdk.compute.find_flavor("m1.small.checkpoint", ignore_missing=False)
    server.action("resize_server", flavor=flavor.id)
    server.wait_status("VERIFY_RESIZE", timeout=300)
    server.action("confirm_server_resize")
    server.wait_status("ACTIVE")
    goes_on_after_a_move(server)


def test_rebuild(server, demo, host):
    image = demo.sdk.image.find_image("mhv-guest", ignore_missing=False)
    server.action("rebuild_server", image=image.id)
    server.wait_status("ACTIVE")
    host.assert_told_of_the_cut(server, "rebuilt")
    goes_on_after_a_move(server)


@pytest.mark.parametrize("daemon", ["nova-compute", "mhv-agent", "mhvd", "mhv-broker", "libvirtd"])
def test_a_daemon_is_killed(server, host, daemon):
    host.kill(daemon)
    wait_for(f"the checkpoints are there after {daemon} was killed", lambda: server.has_checkpoint(server.first["id"]))
    goes_on(server)
    wait_for("nova-compute is up", host.compute_is_up)
    assert server.status() == "ACTIVE"


def test_deleting_the_server_deletes_its_checkpoints(servers, host):
    server = servers()
    server.checkpoint()
    assert host.store_of(server.id).is_dir()
    server.delete()
    wait_for("the server's store is gone", lambda: not host.store_of(server.id).exists())


def test_nova_does_not_see_the_pauses(servers, admin):
    server = servers("m1.tiny.fast")
    wait_for("a few automatic checkpoints", lambda: len(server.checkpoints()) >= 5)
    assert server.status() == "ACTIVE"
    actions = [a.action for a in admin.sdk.compute.server_actions(server.id)]
    assert actions == ["create"], actions
    server.assert_sound()


def test_a_plain_server_is_left_alone(servers, host):
    plain = servers("m1.tiny")
    xml = host.domain_xml(plain.id)
    assert "qemu:commandline" not in xml and "memoryBacking" not in xml
    plain.action("reboot_server", reboot_type="HARD")
    plain.wait_status("ACTIVE")
    plain.wait_answer()
    assert not host.store_of(plain.id).exists()
