"""End-to-end tests: a real small cloud, real servers, real packets. Nothing here is replaced by a mock, and nothing skips."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import uuid

import openstack
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVSTACK = ROOT / "devstack"
CLOUD = pathlib.Path(os.environ.get("MHV_STATE", "/opt/nova-mhv")) / "cloud"
STATE_PORT = 7000


def wait_for(what, condition, timeout=120.0, every=0.5):
    """The first true value of condition(); fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"timed out after {timeout:.0f} s: {what}")
        time.sleep(every)


class Api:
    """nova-mhv's API over HTTP, for what cannot wait the two seconds that the openstack command takes to start."""

    def __init__(self, session):
        self.session = session
        self.base = session.get_endpoint(service_type="hypervisor-service", interface="public").rstrip("/")

    def __call__(self, method, path, **body):
        """(HTTP status, body). The service answers within a minute, whatever the answer."""
        answer = self.session.request(self.base + path, method, json=body or None, raise_exc=False, timeout=60)
        return answer.status_code, answer.json() if answer.content else None

    def create(self, server, name):
        return self("POST", f"/servers/{server}/checkpoints", checkpoint={"name": name})

    def restore(self, server, checkpoint):
        return self("POST", f"/servers/{server}/checkpoints/{checkpoint}/restore")

    def verify(self, server):
        return self("POST", f"/servers/{server}/checkpoints/verify")

    def list(self, server):
        return self("GET", f"/servers/{server}/checkpoints")

    def services(self, server):
        return self("GET", f"/servers/{server}/services")

    def result(self, operation, timeout=180.0):
        """The operation once it is over, or (status, body) of an answer that is not 200."""

        def over():
            status, body = self("GET", f"/servers/{operation['server_id']}/operations/{operation['id']}")
            return (status, body) if status != 200 or body["operation"]["status"] != "running" else None

        return wait_for(f"the operation {operation['action']} is over", over, timeout, every=0.05)


class Client:
    """What one user of the cloud has: the openstack command, the SDK, and nova-mhv's API."""

    def __init__(self, who):
        out = subprocess.run(["bash", "-c", f". {DEVSTACK}/openrc {who} && env -0"], check=True, capture_output=True, text=True).stdout
        self.env = dict(line.split("=", 1) for line in out.split("\0") if "=" in line)
        auth = {k: v for k, v in self.env.items() if k.startswith("OS_")}
        with patched_environ(auth):
            self.sdk = openstack.connect(load_envvars=True, load_yaml_config=False)
        self.api = Api(self.sdk.session)

    def run(self, *args, timeout=300):
        """The `openstack` command as the user types it: (exit status, stdout, stderr)."""
        done = subprocess.run(["openstack", *args], env=self.env, capture_output=True, text=True, timeout=timeout, check=False)
        return done.returncode, done.stdout, done.stderr

    def __call__(self, *args, timeout=300):
        status, out, err = self.run(*args, timeout=timeout)
        assert status == 0, f"openstack {' '.join(args)}: {err or out}"
        return out

    def json(self, *args, timeout=300):
        return json.loads(self(*args, "-f", "json", timeout=timeout))


@contextlib.contextmanager
def patched_environ(values):
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Server:
    """A server with a floating address, and the test program inside its guest."""

    def __init__(self, client, flavor, image="mhv-guest", name=None):
        sdk = client.sdk
        self.client = client
        self.name = name or "t-" + uuid.uuid4().hex[:8]
        self.id = sdk.compute.create_server(
            name=self.name,
            image_id=sdk.image.find_image(image, ignore_missing=False).id,
            flavor_id=sdk.compute.find_flavor(flavor, ignore_missing=False).id,
            networks=[{"uuid": sdk.network.find_network("net1", ignore_missing=False).id}],
        ).id
        self.address = None

    def up(self):
        self.wait_status("ACTIVE")
        if self.address is None:
            sdk = self.client.sdk
            public = sdk.network.find_network("public", ignore_missing=False)
            port = next(iter(sdk.network.ports(device_id=self.id)))
            floating = sdk.network.create_ip(floating_network_id=public.id, port_id=port.id)
            self.address = floating.floating_ip_address
        self.wait_answer()
        return self

    def status(self):
        return self.client.sdk.compute.get_server(self.id).status

    def wait_status(self, status, timeout=180):
        def reached():
            server = self.client.sdk.compute.get_server(self.id)
            assert server.status != "ERROR" or status == "ERROR", server.fault
            return server.status == status and server.task_state is None

        wait_for(f"{self.name} is {status}", reached, timeout)

    def ask(self, line, timeout=5.0):
        with socket.create_connection((self.address, STATE_PORT), timeout=timeout) as connection:
            connection.sendall(line.encode() + b"\n")
            return connection.makefile().readline().strip()

    def get(self, key):
        """What the guest holds under the key; None when it holds nothing."""
        answer = self.ask(f"get {key}")
        return answer.removeprefix("ok ") if answer.startswith("ok") else None

    def set(self, key, value):
        assert self.ask(f"set {key} {value}").startswith("ok")

    def wait_answer(self, timeout=180):
        def answers():
            try:
                return self.ask("status").startswith("ok")
            except OSError:
                return False

        wait_for(f"{self.name} answers on port {STATE_PORT}", answers, timeout)

    def busy(self, pages, rate=3000):
        """Rewrites pages and disk blocks, until so many pages were written."""
        before = self.written()
        for line in (f"rate {rate}", "disk-rate 50"):
            assert self.ask(line) == "ok"
        wait_for(f"{pages} pages are written", lambda: self.written() >= before + pages, every=0.1)

    def written(self):
        return int(self.ask("status").split("gen=")[1].split()[0])

    def quiet(self):
        for line in ("rate 0", "disk-rate 0"):
            assert self.ask(line) == "ok"

    def fingerprint(self):
        """Of all checked memory; it stands still while the guest is quiet."""
        answer = self.ask("mem-fingerprint", timeout=120)
        assert answer.startswith("ok "), answer
        return answer.removeprefix("ok ")

    def assert_sound(self):
        """The guest found none of its pages changed behind its back, and its disk in step with its memory."""
        status = self.ask("check", timeout=120)
        assert status.startswith("ok"), status
        assert "bad=0" in status and "disk=ok" in status, status

    def action(self, name, **arguments):
        getattr(self.client.sdk.compute, name)(self.id, **arguments)

    def checkpoint(self, name=None):
        args = ["server", "checkpoint", "create", self.id, "--wait"]
        if name:
            args += ["--name", name]
        return self.client.json(*args)

    def checkpoints(self):
        return self.client.json("server", "checkpoint", "list", self.id)

    def has_checkpoint(self, checkpoint):
        status, out, _ = self.client.run("server", "checkpoint", "list", self.id, "-f", "json")
        return status == 0 and checkpoint in {row["ID"] for row in json.loads(out)}

    def restore(self, checkpoint):
        self.client("server", "checkpoint", "restore", self.id, checkpoint, "--wait")

    def assert_store_is_sound(self):
        """Every checkpoint, read and checked by the engine."""
        status, body = self.client.api.verify(self.id)
        assert status == 202, body
        status, body = self.client.api.result(body["operation"])
        assert (status, body["operation"]["status"]) == (200, "done"), body
        assert body["operation"]["result"]["problems"] == []

    def delete(self):
        sdk = self.client.sdk
        addresses = list(sdk.network.ips(floating_ip_address=self.address)) if self.address else []
        sdk.compute.delete_server(self.id, ignore_missing=True)
        sdk.compute.wait_for_delete(sdk.compute.get_server(self.id), wait=120) if sdk.compute.find_server(self.id) else None
        for address in addresses:
            sdk.network.delete_ip(address, ignore_missing=True)


@pytest.fixture(scope="session", autouse=True)
def cloud():
    """The small cloud, up and healthy. Left up when it was up before, so that a second run starts at once."""
    was_up = subprocess.run([DEVSTACK / "demo", "--status"], capture_output=True, check=False).returncode == 0
    subprocess.run([DEVSTACK / "demo", "--up"], check=True, timeout=900)
    yield
    if not was_up:
        subprocess.run([DEVSTACK / "demo", "--stop"], check=True, timeout=300)


@pytest.fixture(scope="session")
def admin(cloud):
    return Client("admin")


@pytest.fixture(scope="session", autouse=True)
def flavors(admin):
    """What the tests want beside the demo's flavors."""
    service = {"mhv:services": "checkpoint", "trait:CUSTOM_MHV_CHECKPOINT": "required"}
    ensure_flavor(admin.sdk, "m1.small.checkpoint", 256, service)
    ensure_flavor(admin.sdk, "m1.tiny.fast", 192, {**service, "mhv:checkpoint_interval_s": "0.5", "mhv:checkpoint_keep": "5"})


def ensure_flavor(sdk, name, ram, extra_specs):
    flavor = sdk.compute.find_flavor(name) or sdk.compute.create_flavor(name=name, ram=ram, vcpus=1, disk=1)
    sdk.compute.create_flavor_extra_specs(flavor, extra_specs)


@pytest.fixture(scope="session")
def demo(cloud):
    return Client("demo")


@pytest.fixture(scope="session")
def other(cloud):
    return Client("other")


@pytest.fixture
def servers(demo):
    """servers(flavor): a new server of the demo project; all are deleted at the end."""
    made = []

    def make(flavor="m1.tiny.checkpoint", **arguments):
        server = Server(demo, flavor, **arguments)
        made.append(server)
        return server.up()

    yield make
    for server in made:
        server.delete()


class Host:
    """A compute host of the cloud, as its operator sees it."""

    def __init__(self, admin, number=1):
        self.admin = admin
        self.number = number
        self.name = f"mhv{number}"
        self.folder = CLOUD / f"host{number}"
        self.programs = CLOUD.parent / "engine" / "bin"

    def pid_of(self, daemon, file="child"):
        """Of the daemon itself; "pid": of its keeper."""
        (folder,) = self.folder.glob(f"daemons/*-{daemon}")
        return int((folder / file).read_text())

    def runs(self, daemon):
        """Its process id, or 0 while its keeper starts it again."""
        pid = self.pid_of(daemon)
        return pid if pathlib.Path(f"/proc/{pid}").exists() else 0

    def worker_of(self, server_id):
        """The process id of the server's mhv-worker, or 0 while there is none, or no mhvd to say so."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return next((guest["worker_pid"] for guest in self.mhvctl("status")["guests"] if guest["uuid"] == server_id), 0)
        return 0

    def kill(self, daemon):
        """kill -9, as hard as it goes; the daemon's keeper starts it again. Returns when there is a new process."""
        old = self.pid_of(daemon)
        os.kill(old, signal.SIGKILL)
        wait_for(f"{daemon} is started again", lambda: self.pid_of(daemon) != old)

    @contextlib.contextmanager
    def without(self, daemon):
        """Dead by kill -9, and not started again until the end."""
        keeper = self.pid_of(daemon, "pid")
        os.kill(keeper, signal.SIGSTOP)
        try:
            os.kill(self.pid_of(daemon), signal.SIGKILL)
            yield
        finally:
            os.kill(keeper, signal.SIGCONT)

    @property
    def keeper(self):
        return (self.folder / "keeper").read_text().strip()

    def qemus(self, server_id):
        """Process ids of a server's QEMUs here; hosts differ by their namespaces alone."""
        network = os.readlink(f"/proc/{self.keeper}/ns/net")
        found = subprocess.run(["pgrep", "-f", f"[q]emu-system.*{server_id}"], capture_output=True, text=True, check=False).stdout
        return [pid for pid in found.split() if os.readlink(f"/proc/{pid}/ns/net") == network]

    def run(self, *command):
        inside = ["nsenter", "-t", self.keeper, "-m", "-n", "-u", "-r", "--wd=/"]
        return subprocess.run([*inside, *command], check=True, capture_output=True, text=True).stdout

    def mhvctl(self, *command):
        return json.loads(self.run(str(self.programs / "mhvctl"), "--json", *command))

    def compute_service(self):
        return next(self.admin.sdk.compute.services(binary="nova-compute", host=self.name))

    def compute_is_up(self):
        return self.compute_service().state == "up"

    def take_servers(self, yes):
        """Whether the scheduler may place servers here."""
        compute = self.admin.sdk.compute
        (compute.enable_service if yes else compute.disable_service)(self.compute_service())

    def log(self, daemon):
        prefix = "" if self.number == 1 else f"{self.name}-"
        return (CLOUD / "log" / f"{prefix}{daemon}.log").read_text(errors="replace")

    def assert_told_of_the_cut(self, server, why):
        told = [line for line in self.log("nova-compute").splitlines() if server.id in line and "chain of checkpoints ends" in line]
        assert len(told) == 1 and why in told[0], told

    def store_of(self, server_id):
        return self.folder / "root/var/lib/nova-mhv/guests" / server_id

    def domain_xml(self, server_id):
        return self.run("virsh", "dumpxml", server_id)


@pytest.fixture(scope="session")
def host(admin):
    return Host(admin)


@pytest.fixture(scope="session", autouse=True)
def one_host(admin):
    """A second host that was there before takes no servers while tests that look at the first one run."""
    second = Host(admin, 2)
    shared = (CLOUD / "hosts").read_text().strip() == "2" and second.compute_service().status == "enabled"
    if shared:
        second.take_servers(False)
    yield
    if shared:
        second.take_servers(True)
