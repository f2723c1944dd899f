"""kill -9 of whatever runs, at any moment: no page of the guest changes, no checkpoint is lost, none is half-made.

MHV_KILLS sets how many (default 20; 100 takes about three minutes on two cores). MHV_SEED repeats a run.
"""

import os
import random
import signal
import threading
import time

import lab
import pytest

KILLS = int(os.environ.get("MHV_KILLS", "20"))
SEED = int(os.environ.get("MHV_SEED", str(int(time.time()))))
VICTIMS = ["worker", "mhvd", "mhv-broker", "libvirtd"]


class Storm:
    """Kills one process at a random moment of the action that runs, and knows when all are back."""

    def __init__(self, host, engine, guest):
        self.host, self.engine, self.guest = host, engine, guest
        self.random = random.Random(SEED)

    def pid_of(self, victim):
        if victim != "worker":
            return self.host.daemon_pid(victim)
        try:
            return (self.engine.status(self.guest.name) or {}).get("worker_pid", 0)
        except lab.EngineError:
            return 0

    def strike(self, action, victim):
        """Runs `action` and kills `victim` somewhere in it. Returns the action's result, or its error."""
        pid = lab.wait_until(f"{victim} to run", lambda: self.pid_of(victim))
        result = []

        def act():
            try:
                result.append(action())
            except (lab.EngineError, RuntimeError) as error:
                result.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        # An action takes some tens of milliseconds after mhvctl has started, and up to a second under load.
        time.sleep(self.random.choice([0.0, 0.02, 0.05, 0.1, 0.2, 0.4]) * self.random.uniform(0.5, 1.5))
        lab.kill(pid)
        thread.join(300)
        assert not thread.is_alive(), f"the action hangs after the death of {victim}"
        print(f"killed {victim} ({pid}): {result[0]}")
        return result[0]

    def services_are_back(self):
        lab.wait_until("services to be back", lambda: all(map(self.pid_of, VICTIMS[1:])), 60)
        lab.wait_until("libvirt to answer", lambda: self.host.run("virsh", "-q", "version", check=False).returncode == 0, 60)

    @property
    def libvirt_status(self):
        """The file in which libvirt keeps what it knows of the running guest."""
        return self.host.folder / f"root/run/libvirt/qemu/{self.guest.name}.xml"

    def stuck_in_libvirt(self):
        """Whether libvirt was killed while it started the guest: it holds it busy for ever, and no QEMU runs."""
        try:
            return "pid='0'" in self.libvirt_status.read_text()
        except FileNotFoundError:
            return False

    def free_in_libvirt(self):
        """As doc/restore.rst tells the operator."""
        self.libvirt_status.unlink()
        pid = self.pid_of("libvirtd")
        lab.kill(pid, signal.SIGTERM)
        lab.wait_until("libvirtd to end", lambda: not lab.running(pid), 60)
        self.services_are_back()

    def destroy(self):
        print(f"ending {self.guest.name}, {'stuck in libvirt' if self.stuck_in_libvirt() else self.guest.state}")
        if self.stuck_in_libvirt():
            self.free_in_libvirt()
        else:
            self.host.virsh("destroy", self.guest.name, check=False)

    def settle(self, state="running"):
        """Everything is back, and the guest is as it was."""
        self.services_are_back()
        self.engine.wait_state(self.guest.name, "attached", 90)
        assert self.guest.state == state
        if state == "running":
            self.guest.wait_answer(30)


def check_restores(storm, known):
    """Restores some checkpoint; its own key tells which one it is."""
    name, checkpoint = storm.random.choice(list(known.items()))
    return name, lambda: storm.engine.restore(storm.guest.name, checkpoint["id"])


@pytest.mark.storm
@pytest.mark.parametrize(("kind", "ram_mib"), [("memfd", 128), ("anon", 128), ("memfd", 320)], ids=["memfd", "anon", "large"])
def test_storm(make_guest, engine, host, kind, ram_mib):
    print(f"MHV_SEED={SEED} MHV_KILLS={KILLS}")
    guest = make_guest(kind, mib=48, ram_mib=ram_mib)
    engine.attach(guest.name)
    storm = Storm(host, engine, guest)
    boot = guest.status()["boot"]
    prints, known, digests = {}, {}, {}

    def remember(name):
        guest.set("here", name)
        prints[name] = guest.quiet()

    def stand_still(name):
        """Of a guest that does not run, an outsider can read the RAM at the moment of the checkpoint."""
        host.virsh("suspend", guest.name)
        digests[name] = guest.ram_digests()

    remember("start")
    stand_still("start")
    known["start"] = engine.create(guest.name, "start")
    host.virsh("resume", guest.name)
    for round_number in range((KILLS + 1) // 2):
        guest.busy(3000, pages=500)
        if storm.random.random() < 0.6:
            name = f"point {round_number}"
            remember(name)
            still = storm.random.random() < 0.5
            if still:
                stand_still(name)
            result = storm.strike(lambda name=name: engine.create(guest.name, name), storm.random.choice(VICTIMS))
            storm.settle("paused" if still else "running")
            if still:
                host.virsh("resume", guest.name)
            listed = {c["name"]: c for c in engine.list(guest.name)}
            if isinstance(result, dict):
                assert listed[name]["id"] == result["id"], "a checkpoint that was reported is lost"
            if name in listed:  # it may be there although its report never came
                assert listed[name]["state"] == "available"
                known[name] = listed[name]
        else:
            name, action = check_restores(storm, known)
            result = storm.strike(action, storm.random.choice(VICTIMS))
            storm.settle()
            if isinstance(result, dict):
                assert guest.get("here") == name
                assert guest.fingerprint() == prints[name]
            else:  # all of the restore, or nothing of it
                assert guest.get("here") in prints
        assert guest.assert_whole()["boot"] == boot

    # Strikes in the middle of nothing at all.
    guest.busy(1000)
    for _ in range(KILLS // 2):
        storm.strike(lambda: time.sleep(0.05), storm.random.choice(VICTIMS))
    storm.settle()
    guest.assert_whole()

    listed = {c["name"]: c for c in engine.list(guest.name)}
    assert set(listed) == set(known), "what is listed is what was made"
    assert not engine.verify(guest.name).get("problems")
    for name, checkpoint in known.items():
        if name in digests:
            host.virsh("suspend", guest.name)
        engine.restore(guest.name, checkpoint["id"])
        if name in digests:
            assert guest.ram_digests() == digests[name], "RAM is bit by bit what it was at the checkpoint"
            host.virsh("resume", guest.name)
        assert guest.get("here") == name
        assert guest.fingerprint() == prints[name]
        guest.assert_whole()
