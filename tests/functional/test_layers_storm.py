"""Layers on a guest that works die at random: it stays whole, and each of them goes on.

MHV_SOAK_S sets for how many seconds (default 15; tests/soak/run takes ten minutes), MHV_SEED repeats a run.
"""

import json
import os
import random
import time

import lab
import pytest

SOAK_S = int(os.environ.get("MHV_SOAK_S", "15"))
SEED = int(os.environ.get("MHV_SEED", str(int(time.time()))))


class Layer:
    """One of a guest's layers: how it is asked for, what of it can be killed, and what shows that it works."""

    def __init__(self, name, works, configuration=None):
        self.name, self.works, self.configuration = name, works, configuration

    def words(self):
        configure = ("--configure", f"{self.name}={json.dumps(self.configuration)}") if self.configuration else ()
        return ("--service", self.name, *configure)

    def victims(self, host):
        """Process ids: of its sandbox, and of what is in it."""
        mhvd = host.daemon_pid("mhvd")
        out, found = [], host.run("pgrep", "-P", mhvd, "-f", f"mhv-jail .*layers/{self.name} ", check=False).stdout.split()
        while found:
            out += map(int, found)
            found = host.run("pgrep", "-P", ",".join(found), check=False).stdout.split()
        return out


def introspection_works(call):
    return any(process["pid"] == 1 for process in call("processes"))


def integrity_works(call):
    seen = call("status")
    assert call("findings") == []
    return seen["measured"] and seen["checks"] >= 3


def heatmap_works(call):
    return len(call("heat")) > 0


LAYERS = (
    Layer("introspection", introspection_works),
    Layer("integrity", integrity_works, {"epoch_ms": 100}),
    Layer("heatmap", heatmap_works),
)


class Storm:
    def __init__(self, host, engine, guest):
        self.host, self.engine, self.guest = host, engine, guest
        self.random = random.Random(SEED)
        self.killed = dict.fromkeys((layer.name for layer in LAYERS), 0)

    def attach(self):
        words = [word for layer in LAYERS for word in layer.words()]
        self.engine.attach(self.guest.name, "--interval", "0.5", "--keep", "20", "--service", "checkpoint", *words)

    def status(self):
        return self.engine.status(self.guest.name)

    def layer(self, name):
        return next(layer for layer in self.status()["layers"] if layer["name"] == name)

    def works(self, layer):
        """Whether it answers as it should; what is just being started does not."""

        def call(method):
            return self.engine.call("layer", "call", self.guest.name, layer.name, method, "{}")[method]

        try:
            return layer.works(call)
        except lab.EngineError as error:
            if error.code not in ("unavailable", "unsupported", "busy"):
                raise
            return print(f"{layer.name}: {error}")

    def strike(self, layer):
        restarts = self.layer(layer.name).get("restarts", 0)
        victim = self.random.choice(lab.wait_until(f"{layer.name} to run", lambda: layer.victims(self.host)))
        lab.kill(victim)
        self.killed[layer.name] += 1
        lab.wait_until(f"{layer.name} to be missed", lambda: self.layer(layer.name).get("restarts", 0) > restarts)

    def epochs(self, layer):
        return int(self.layer(layer.name).get("epochs", 0))

    def all_go_on(self):
        for layer in LAYERS:
            lab.wait_until(f"{layer.name} to work", lambda layer=layer: self.works(layer), 90)
            before = self.epochs(layer)
            lab.wait_until(f"epochs of {layer.name}", lambda layer=layer, before=before: self.epochs(layer) > before)

    def checkpoints(self):
        return int(self.status().get("epoch", 0))


@pytest.mark.storm
def test_layers_that_are_killed_at_random(make_guest, engine, host):
    print(f"MHV_SEED={SEED} MHV_SOAK_S={SOAK_S}")
    guest = make_guest("memfd", mib=48, ram_mib=192)
    boot = guest.status()["boot"]
    storm = Storm(host, engine, guest)
    storm.attach()
    guest.busy(1000)
    until = time.monotonic() + SOAK_S * lab.SLOW
    storm.all_go_on()
    worker = storm.status()["worker_pid"]
    while time.monotonic() < until:
        before = storm.checkpoints()
        for layer in storm.random.sample(LAYERS, storm.random.randint(1, len(LAYERS))):
            storm.strike(layer)
        storm.all_go_on()
        lab.wait_until("another checkpoint", lambda before=before: storm.checkpoints() > before)
        assert guest.assert_whole()["boot"] == boot
    assert storm.status()["worker_pid"] == worker, "it does not die of its layers"
    assert [a for a in engine.call("alerts", guest.name)["alerts"] if a["severity"] == "critical"] == []
    print(f"killed: {storm.killed}; {storm.checkpoints()} checkpoints; {storm.status()['layers']}")
    checkpoint = storm.random.choice(engine.list(guest.name))
    engine.restore(guest.name, checkpoint["id"])
    storm.all_go_on()
    assert not engine.verify(guest.name).get("problems")
    assert guest.assert_whole()["boot"] == boot
