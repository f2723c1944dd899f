"""A server that leaves its host, or whose host dies: it goes on, its service with it, and nothing of it stays behind."""

import subprocess
import threading
from concurrent import futures

import pytest
from conftest import CLOUD, DEVSTACK, Host, wait_for
from test_lifecycle import goes_on_after_a_move


def demo_up(*arguments):
    subprocess.run([DEVSTACK / "demo", "--up", *arguments], check=True, timeout=600)


@pytest.fixture(scope="module")
def hosts(admin):
    """Both compute hosts. The second takes servers in this module alone, and goes when it came for it."""
    found = (CLOUD / "hosts").read_text().strip()
    demo_up("--hosts", "2")
    first, second = Host(admin, 1), Host(admin, 2)
    second.take_servers(True)
    yield first, second
    admin.sdk.compute.update_service_forced_down(second.compute_service(), forced=False)
    second.take_servers(False)
    demo_up("--hosts", found)


@pytest.fixture
def moving(hosts, servers):
    """moving(host): a new server there, with a key and a first checkpoint."""

    def make(host):
        elsewhere = next(other for other in hosts if other is not host)
        elsewhere.take_servers(False)
        try:
            server = servers()
        finally:
            elsewhere.take_servers(True)
        assert host_of(server, host.admin) == host.name
        server.set("mark", "before")
        server.first = server.checkpoint("first")
        return server

    return make


def host_of(server, admin):
    return admin.sdk.compute.get_server(server.id).compute_host


def leftovers(server, host):
    """What a host still has of a server: its domain, its QEMU, the engine's files and knowledge of it."""
    found = [line for line in host.run("virsh", "list", "--all", "--uuid").split() if line == server.id]
    found += [f"QEMU {pid}" for pid in host.qemus(server.id)]
    found += host.run("find", "/run/nova-mhv", "/var/lib/nova-mhv", "-name", f"*{server.id}*").split()
    return found + [guest for guest in host.mhvctl("status").get("guests", []) if guest["uuid"] == server.id]


def assert_chain_was_cut(server, source, told_by, why):
    """The checkpoints went with the disk that they belong to, an operator was told, and the source keeps nothing."""
    told_by.assert_told_of_the_cut(server, why)
    wait_for(f"nothing of {server.name} is left on {source.name}", lambda: not leftovers(server, source))
    assert server.checkpoints() == []
    assert goes_on_after_a_move(server)["parent"] is None, "the next checkpoint is the first of a new chain"


def test_live_migration(moving, hosts, admin):
    source, target = hosts
    server = moving(source)
    boot = server.ask("status").split("boot=")[1]
    admin.sdk.compute.live_migrate_server(server.id, host=target.name, block_migration="auto")
    server.wait_status("ACTIVE", timeout=300)
    assert host_of(server, admin) == target.name
    server.wait_answer()
    assert server.ask("status").split("boot=")[1] == boot, "the guest was not booted anew"
    assert server.get("mark") == "before"
    server.assert_sound()
    assert_chain_was_cut(server, source, source, "the server was live migrated away")


def test_cold_migration(moving, hosts, admin):
    source, target = hosts
    server = moving(source)
    admin.sdk.compute.migrate_server(server.id, host=target.name)
    server.wait_status("VERIFY_RESIZE", timeout=300)
    admin.sdk.compute.confirm_server_resize(server.id)
    server.wait_status("ACTIVE")
    assert host_of(server, admin) == target.name
    server.wait_answer()
    assert server.get("mark") == "before", "its disk moved with it"
    server.assert_sound()
    assert_chain_was_cut(server, source, source, f"the server was moved to {target.name}")


class Checkpoints:
    """Takes one checkpoint after the other in a thread, until `ended` is set."""

    def __init__(self, server):
        self.server = server
        self.asked, self.made = set(), []
        self.ended = threading.Event()

    def take(self):
        api = self.server.client.api
        while not self.ended.is_set():
            name = f"point {len(self.asked)}"
            self.asked.add(name)
            status, body = api.create(self.server.id, name)
            if status == 202:
                status, body = api.result(body["operation"])
            if status == 200 and body["operation"]["status"] == "done":
                self.made.append(body["operation"]["result"]["checkpoint"]["id"])


def test_host_reboot(moving, hosts):
    """The power fails in the middle of a checkpoint. The server comes back with its host, and so do its checkpoints."""
    _, host = hosts
    server = moving(host)
    points = Checkpoints(server)
    with futures.ThreadPoolExecutor(1) as pool:
        taking = pool.submit(points.take)
        try:
            wait_for("a few checkpoints", lambda: len(points.made) >= 3, every=0.05)
            power_cut(host)
        finally:
            points.ended.set()
        demo_up()
        taking.result()
    server.wait_status("ACTIVE")
    server.wait_answer()
    server.assert_sound()
    wait_for("the service is back", lambda: server.has_checkpoint(server.first["id"]))
    rows = {row["ID"]: row for row in server.checkpoints()}
    assert {row["State"] for row in rows.values()} == {"available"}, rows
    assert {server.first["id"], *points.made} <= rows.keys(), "a checkpoint that was reported is lost"
    assert {row["Name"] for row in rows.values()} <= {"first", *points.asked}
    server.assert_store_is_sound()
    server.set("mark", "after")
    for checkpoint in (server.first["id"], points.made[-1]):
        server.restore(checkpoint)
        assert server.get("mark") == "before"
        server.assert_sound()
    goes_on_after_a_move(server)
    assert rows.keys() < {row["ID"] for row in server.checkpoints()}


def test_evacuation(moving, hosts, admin):
    """The host dies; its server is built anew on the other, and when the host is back, it keeps nothing of it."""
    target, source = hosts
    server = moving(source)
    power_cut(source)
    compute = admin.sdk.compute
    compute.update_service_forced_down(source.compute_service(), forced=True)
    compute.evacuate_server(server.id, host=target.name)
    # Evacuated servers are left stopped, from microversion 2.95 on.
    wait_for("the server is evacuated", lambda: host_of(server, admin) == target.name)
    server.wait_status("SHUTOFF")
    compute.start_server(server.id)
    server.wait_status("ACTIVE")
    server.wait_answer()
    server.assert_sound()
    demo_up()
    compute.update_service_forced_down(source.compute_service(), forced=False)
    wait_for("the host is back", source.compute_is_up)
    assert_chain_was_cut(server, source, target, f"the server was evacuated from {source.name}")


def power_cut(host):
    """Every process of the host ends at once, and whoever asks for the cloud's status learns of it."""
    subprocess.run([DEVSTACK / "lib/run", "host_power_cut", str(host.number)], check=True, timeout=60)
    status = subprocess.run([DEVSTACK / "demo", "--status"], capture_output=True, text=True, check=False)
    assert status.returncode != 0 and f"{host.name}   is not up" in status.stdout, status.stdout
