"""A third party's service: from `mhvctl layer new`, packed, signed and uploaded, let in by the operator, to a tenant's question."""

import contextlib
import json
import os
import signal
import subprocess

import pytest
from conftest import CLOUD, DEVSTACK, ROOT, wait_for

VENDOR = "acme"
LINES_MAX = 50
KEY_FILE = f"/etc/nova-mhv/vendors/{VENDOR}.pem"


class Vendor:
    """Somebody outside of the cloud, who has the SDK and a key."""

    def __init__(self, folder, mhvctl):
        self.folder = folder
        self.mhvctl = mhvctl
        self.public_key = folder / "public.pem"
        self.run("openssl", "genpkey", "-algorithm", "ed25519", "-out", "secret.pem")
        self.run("openssl", "pkey", "-in", "secret.pem", "-pubout", "-out", self.public_key)

    def run(self, *command):
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def package(self, name, language):
        """A layer as it was begun; of its manifest, the vendor's name alone is changed."""
        project = self.folder / name
        python = language == "python"
        self.run(self.mhvctl, "layer", "new", name, *(["--python"] if python else []))
        assert len((project / (name if python else "main.cpp")).read_text().splitlines()) <= LINES_MAX
        manifest = project / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"vendor": "example"', f'"vendor": "{VENDOR}"'))
        if not python:
            self.run("cmake", "-S", project, "-B", project / "build", f"-Dmhv-layer_DIR={ROOT}/build/programs/mhv-layer")
            self.run("cmake", "--build", project / "build")
        folder = project if python else project / "build/package"
        self.run(self.mhvctl, "layer", "pack", folder, "--key", "secret.pem", "--output", f"{name}.tar")
        return self.folder / f"{name}.tar"


@pytest.fixture
def vendor(tmp_path, host):
    return Vendor(tmp_path, host.programs / "mhvctl")


@pytest.fixture
def hosts(host):
    """The one that servers are on: a second one, of other tests, may just be down."""
    return [host]


def allow(hosts, vendor, undo):
    for host in hosts:
        undo.callback(host.run, "rm", "-f", KEY_FILE)
        host.run("install", "-D", "-m", "0644", vendor.public_key, KEY_FILE)


def install(admin, image, hosts):
    """The exit status, and what became of it on each host."""
    named = [word for host in hosts for word in ("--host", host.name)]
    status, out, err = admin.run("hypervisor", "service", "install", image, *named, "-f", "json")
    assert out, err
    return status, [{key.lower(): value for key, value in row.items()} for row in json.loads(out)]


def enable(host, name, undo):
    """What an operator writes into the two files; at the end they are as they were."""
    changes = {
        "nova-api": (CLOUD / "etc/nova/nova.conf", "[layers]\n", f"[layers]\nenabled = {name}\n"),
        "mhv-api": (host.folder / "root/etc/nova-mhv/mhv-api.conf", "tenant_addable = ", f"tenant_addable = {name},"),
    }
    for daemon, (path, old, new) in changes.items():
        before = path.read_text()
        assert old in before, path
        undo.callback(rewrite, host, daemon, path, before)
        rewrite(host, daemon, path, before.replace(old, new))


def rewrite(host, daemon, path, text):
    """And restarts the service that reads it."""
    path.write_text(text)
    old = host.pid_of(daemon)
    os.kill(old, signal.SIGTERM)
    wait_for(f"{daemon} is started again", lambda: host.pid_of(daemon) != old)
    wait_for(f"{daemon} answers", lambda: subprocess.run([DEVSTACK / "demo", "--status"], capture_output=True, check=False).returncode == 0)


def offered(client, name):
    return next((row for row in client.json("hypervisor", "service", "list") if row["Name"] == name), None)


def layer_of(server, name):
    return server.client.json("server", "service", "show", server.id, name)


def ask(server, name, method):
    (answer,) = server.client.json("server", "service", "call", server.id, name, method)
    return answer


def has_trait(admin, name):
    found = admin.sdk.placement.get(f"/traits?associated=true&name=in:CUSTOM_MHV_{name.upper().replace('-', '_')}").json()
    return bool(found["traits"])


@pytest.mark.parametrize("language", ["cpp", "python"])
def test_a_vendors_service(admin, host, hosts, vendor, servers, language):
    name = f"watch-{language}"
    with contextlib.ExitStack() as undo:
        image = admin.json("hypervisor", "service", "upload", str(vendor.package(name, language)))["image_id"]
        undo.callback(admin.sdk.image.delete_image, image)
        for each in hosts:
            undo.callback(each.run, "rm", "-rf", f"/var/lib/nova-mhv/layers/{name}")

        status, refused = install(admin, image, hosts)
        assert status == 1 and {row["status"] for row in refused} == {"error"}
        assert all(f"vendor {VENDOR}" in row["message"] and KEY_FILE in row["hint"] for row in refused)
        allow(hosts, vendor, undo)
        status, installed = install(admin, image, hosts)
        assert status == 0 and {(row["status"], row["name"], row["vendor"]) for row in installed} == {("installed", name, VENDOR)}
        assert {row["host"] for row in installed} == {each.name for each in hosts}
        status, again = install(admin, image, hosts)
        assert status == 0 and {row["status"] for row in again} == {"exists"}

        server = servers()
        tenant = server.client
        assert offered(tenant, name) == {"Name": name, "Version": "0.1", "Vendor": VENDOR, "Tenant Addable": False}
        status, _, err = tenant.run("server", "service", "add", server.id, name)
        assert status != 0 and "tenant's wish" in err
        enable(host, name, undo)
        assert offered(tenant, name)["Tenant Addable"]
        use(server, name)
        may_be_in_a_flavor(admin, name)
        loses_its_vendor(server, name, hosts)
        server.assert_sound()


def use(server, name):
    tenant = server.client
    status, _, err = tenant.run("server", "service", "add", server.id, name, "--configure", '{"alert_below": 1}')
    assert status != 0 and "alert_below" in err
    tenant("server", "service", "add", server.id, name, "--configure", '{"alert_above_mib": 0}')
    wait_for("the service is ready", lambda: layer_of(server, name)["state"] == "ready", 60)
    server.busy(3000)
    wait_for("what the guest wrote is counted", lambda: ask(server, name, "total")["bytes"] > 1 << 20, 60)
    assert "Linux version" in ask(server, name, "kernel")["answer"]
    alerts = wait_for("an alert", lambda: tenant.json("server", "alert", "list", server.id), 60)
    assert {(alert["Layer"], alert["Title"]) for alert in alerts} == {(name, "the guest writes much")}
    server.quiet()
    status, _, err = tenant.run("server", "service", "call", server.id, name, "teleport")
    assert status != 0 and "teleport" in err


def may_be_in_a_flavor(admin, name):
    wait_for("its trait is known", lambda: has_trait(admin, name), 180)
    flavor = admin.sdk.compute.create_flavor(name=f"m1.tiny.{name}", ram=192, vcpus=1, disk=1)
    try:
        admin("--os-compute-api-version", "2.86", "flavor", "set", flavor.name, "--property", f"mhv:services=checkpoint,{name}")
    finally:
        admin.sdk.compute.delete_flavor(flavor.id)


def loses_its_vendor(server, name, hosts):
    """Without the key what runs goes on, and is not started again, neither by itself nor by somebody."""
    for host in hosts:
        host.run("rm", KEY_FILE)
    assert ask(server, name, "total")
    jails = subprocess.run(["pgrep", "-f", f"[m]hv-jail .*layers/{name}/"], capture_output=True, text=True, check=False).stdout.split()
    assert jails
    for jail in jails:
        os.kill(int(jail), signal.SIGKILL)
    wait_for("its end, and why", lambda: f"vendor {VENDOR}" in layer_of(server, name)["message"], 60)
    assert layer_of(server, name)["state"] != "ready"
    server.client("server", "service", "remove", server.id, name)
    status, _, err = server.client.run("server", "service", "add", server.id, name)
    assert status != 0 and f"vendor {VENDOR}" in err
    assert offered(server.client, name) is None
