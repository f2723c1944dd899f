"""kill -9 of whatever serves a tenant's checkpoints, at any moment of what he asks for through the API.

No page of the guest changes, no checkpoint is lost, none is half-made, every one restores to exactly its state, and what
cannot be done is said. MHV_KILLS sets how many (default 20; 100 take about five minutes on two cores). MHV_SEED repeats a run.
"""

import os
import random
import signal
import subprocess
import threading
import time

from conftest import DEVSTACK, wait_for

KILLS = int(os.environ.get("MHV_KILLS", "20"))
SEED = int(os.environ.get("MHV_SEED", str(int(time.time()))))
DAEMONS = ["mhvd", "mhv-broker", "mhv-agent", "nova-compute", "libvirtd"]
VICTIMS = ["worker", *DAEMONS]
REFUSALS = {409, 503}
MAY_PASS = {"busy", "gone", "unavailable"}  # why an operation may fail while a daemon is away


class Storm:
    """One server, what it was at each point, and kills at random moments."""

    def __init__(self, host, server):
        self.host, self.server, self.api = host, server, server.client.api
        self.random = random.Random(SEED)
        self.points = {}  # name of a checkpoint that was asked for -> the guest's state there
        self.known = {}  # name of one that was listed -> its id
        self.usual_s = 0.0  # how long a request takes when nothing is killed

    def begin(self):
        """The first checkpoint, which holds all memory, and a second: what the storm does takes as long as that one."""
        for name in ("start", "second"):
            self.points[name] = self.new_state(name)
            began = time.monotonic()
            self.undisturbed(self.api.create(self.server.id, name))
            self.usual_s = time.monotonic() - began
        self.known = self.listed()
        assert self.known.keys() == self.points.keys()

    def undisturbed(self, answer):
        status, body = answer
        assert status == 202, body
        status, body = self.api.result(body["operation"])
        assert (status, body["operation"]["status"]) == (200, "done"), body

    def pid_of(self, victim):
        return self.host.worker_of(self.server.id) if victim == "worker" else self.host.runs(victim)

    def state(self):
        return self.server.get("here"), self.server.fingerprint()

    def new_state(self, name):
        """A state of the guest as there was none before, that stands still."""
        self.server.busy(pages=500)
        self.server.set("here", name)
        self.server.quiet()
        return self.state()

    def strike(self, request):
        """Sends a request, and kills something before, in or after it. Returns how it ended, and the result when "done".

        "refused" before anything began, "failed" with a reason that may pass; "unknown" when nobody is there to say.
        """
        victim = self.random.choice(VICTIMS)
        delay = self.random.uniform(0.0, 1.2) * self.usual_s
        pid = wait_for(f"{victim} runs", lambda: self.pid_of(victim), every=0.1)
        killer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
        began = time.monotonic()
        killer.start()
        ended, result = self.ask(request, victim)
        print(f"killed {victim} after {delay:.2f} s, over after {time.monotonic() - began:.2f} s: {ended}")
        killer.join()
        return ended, result

    def ask(self, request, victim):
        status, body = request()
        if status != 202:
            self.assert_clear(status, body)
            # The agent may have begun, and died before it said so.
            return ("unknown" if victim == "mhv-agent" else "refused"), None
        status, body = self.api.result(body["operation"])
        if status != 200:
            assert victim == "mhv-agent", (status, body)
            assert status in (404, 503), (status, body)  # forgotten with the agent that did it, or no agent yet
            return "unknown", None
        operation = body["operation"]
        if operation["status"] == "done":
            return "done", operation["result"]
        assert operation["error"]["code"] in MAY_PASS, operation
        assert operation["error"]["message"], operation
        print(operation["error"])
        return "failed", None

    @staticmethod
    def assert_clear(status, body):
        """A refusal that tells the tenant what to do, no path of the host, and never that his server has no such service."""
        assert status in REFUSALS, (status, body)
        ((_, fault),) = body.items()
        assert fault["message"] and fault["hint"], body
        assert "no hypervisor service" not in fault["message"] and "/run/" not in str(fault), body
        print(fault)

    def settle(self, ended):
        """Everything is back, and the guest is as it should be."""
        wait_for("all daemons are back", lambda: all(map(self.host.runs, DAEMONS)))
        wait_for("the server is under its service", self.attached)
        if ended in ("failed", "unknown"):
            # What was asked for may still be going on: the engine does one thing after the other.
            self.server.assert_store_is_sound()
        assert self.server.status() == "ACTIVE"
        self.server.wait_answer()
        self.server.assert_sound()

    def attached(self):
        status, body = self.api.services(self.server.id)
        if status == 200:
            return body["services"]["state"] == "attached"
        return self.assert_clear(status, body)

    def listed(self):
        """Name -> id of all checkpoints: those that were there still are, and none is half-made or unasked for."""
        status, body = self.api.list(self.server.id)
        assert status == 200, body
        rows = body["checkpoints"]
        assert {row["state"] for row in rows} <= {"available"}, rows
        found = {row["name"]: row["id"] for row in rows}
        assert len(found) == len(rows), rows
        assert self.known.items() <= found.items(), "a checkpoint is lost"
        assert found.keys() <= self.points.keys(), "a checkpoint that nobody asked for"
        return found

    def create(self, name):
        self.points[name] = self.new_state(name)
        ended, result = self.strike(lambda: self.api.create(self.server.id, name))
        self.settle(ended)
        assert self.state() == self.points[name], "a checkpoint changed the guest"
        found = self.listed()
        if ended == "done":
            assert found[name] == result["checkpoint"]["id"], "a checkpoint that was reported is lost"
        if ended == "refused":
            assert name not in found
        self.known = found

    def restore(self, before):
        name = self.random.choice(list(self.known))
        before = self.new_state(before)
        ended, _ = self.strike(lambda: self.api.restore(self.server.id, self.known[name]))
        self.settle(ended)
        allowed = {"done": [self.points[name]], "refused": [before]}.get(ended, [before, self.points[name]])
        assert self.state() in allowed, f"a restore that {ended}: neither all of it nor nothing"
        self.known = self.listed()

    def restore_all(self):
        for name, checkpoint in self.listed().items():
            self.undisturbed(self.api.restore(self.server.id, checkpoint))
            assert self.state() == self.points[name]
            self.server.assert_sound()


def test_storm(servers, host):
    print(f"MHV_SEED={SEED} MHV_KILLS={KILLS}")
    storm = Storm(host, servers())
    boot = storm.server.ask("status").split("boot=")[1]
    storm.begin()
    for number in range(KILLS):
        if storm.random.random() < 0.6:
            storm.create(f"point {number}")
        else:
            storm.restore(f"before {number}")
        assert storm.server.ask("status").split("boot=")[1] == boot, "the guest was booted anew"
    storm.server.assert_store_is_sound()
    storm.restore_all()
    wait_for("every service is well", every_service_is_well)
    assert storm.server.status() == "ACTIVE"


def every_service_is_well():
    return subprocess.run([DEVSTACK / "demo", "--status"], check=False).returncode == 0


def test_nova_compute_that_finds_no_libvirt_ends(host):
    """And is started again until there is one. It would hang for ever otherwise, and the host take no servers."""
    with host.without("libvirtd"):
        host.kill("nova-compute")
        first = host.pid_of("nova-compute")
        wait_for("nova-compute ends", lambda: host.pid_of("nova-compute") != first)
    wait_for("every service is well", every_service_is_well)
