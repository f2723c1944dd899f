"""Forty checkpoints a second of a guest that works, while workers and supervisors die.

MHV_EPOCHS sets how many checkpoints (default 400; tests/soak/run takes 24,000, ten minutes at full rate), MHV_SEED repeats
a run.
"""

import os
import random
import time

import lab

EPOCHS = int(os.environ.get("MHV_EPOCHS", "400"))
SEED = int(os.environ.get("MHV_SEED", str(int(time.time()))))
BETWEEN = 60  # epochs between two strikes
KEEP = 800  # one list has up to 1,000
NEWEST = 200  # are restored from: the others leave room for what is taken meanwhile, 15 s at full rate


class Run:
    def __init__(self, guest, engine, host):
        self.guest, self.engine, self.host = guest, engine, host
        self.random = random.Random(SEED)
        self.taken = self.last = self.number = 0

    def attach(self):
        self.engine.attach(self.guest.name, "--interval", "0.025", "--overhead-max", "100", "--keep", str(KEEP))

    def pass_epochs(self, count):
        """Waits until so many more checkpoints were taken; a restore takes the number back, and a new worker goes on from there."""
        wanted = self.taken + count

        def passed():
            try:
                status = self.engine.status(self.guest.name) or {}
            except lab.EngineError:
                return False  # mhvd is just being started again
            if status.get("state") != "attached":
                return False  # a new worker does not know the number yet
            now = int(status.get("epoch", 0))
            self.number += 1
            self.guest.set("number", self.number)
            self.taken += max(0, now - self.last)
            self.last = now
            return self.taken >= wanted

        lab.wait_until(f"{wanted} checkpoints", passed, 120)

    def history(self):
        """The checkpoints that led to now, oldest first, as far as they are among the newest."""
        listed = self.engine.list(self.guest.name)
        newest = {c["id"]: c for c in listed[-NEWEST:]}
        found = [next(c for c in listed if c.get("current"))]
        while found[-1].get("parent") in newest:
            found.append(newest[found[-1]["parent"]])
        return found[::-1]

    def strike(self, victim):
        status = self.engine.status(self.guest.name)
        lab.kill(status["worker_pid"] if victim == "worker" else self.host.daemon_pid(victim))
        self.engine.wait_state(self.guest.name, "attached", 90)

    def restore_some(self):
        """The number that the guest holds only ever grew: in RAM and on its disk, which it compares."""
        history = self.history()
        points = self.random.sample(range(len(history)), 3)
        held = {}
        for index in points:
            self.engine.restore(self.guest.name, history[index]["id"])
            self.guest.assert_whole()
            held[index] = int(self.guest.get("number"))
        assert [held[i] for i in sorted(points)] == sorted(held.values()), held

    def suspend(self):
        """Libvirt does nothing for a guest that it sees paused, as in the pause of an epoch: so until it stays so."""

        def stays():
            self.host.virsh("suspend", self.guest.name)
            return all(self.guest.state == "paused" for _ in range(10))

        lab.wait_until("the guest to stay paused", stays)

    def point_with_digests(self):
        """A checkpoint whose RAM an outsider has read at its very moment."""
        self.suspend()
        digests = self.guest.ram_digests()
        made = self.engine.create(self.guest.name)
        self.host.virsh("resume", self.guest.name)
        return made["id"], digests

    def assert_bit_by_bit(self, checkpoint, digests):
        self.suspend()
        self.engine.restore(self.guest.name, checkpoint)
        assert self.guest.ram_digests() == digests
        self.host.virsh("resume", self.guest.name)
        self.guest.assert_whole()


def test_a_working_guest_forty_times_a_second(make_guest, engine, host):
    print(f"MHV_SEED={SEED} MHV_EPOCHS={EPOCHS}")
    guest = make_guest("lean", mib=48, ram_mib=320)
    run = Run(guest, engine, host)
    guest.set("number", 0)
    run.attach()
    guest.ask("rate 2000")
    guest.ask("disk-rate 5")
    point = run.point_with_digests()
    while run.taken < EPOCHS:
        run.pass_epochs(BETWEEN)
        run.strike(run.random.choice(["worker", "worker", "mhvd"]))
        run.pass_epochs(BETWEEN)
        assert {c["state"] for c in engine.list(guest.name)} == {"available"}
        guest.assert_whole()
        run.assert_bit_by_bit(*point)
        point = run.point_with_digests()
        run.pass_epochs(BETWEEN)
        run.restore_some()
    run.assert_bit_by_bit(*point)
    assert not engine.verify(guest.name).get("problems")
