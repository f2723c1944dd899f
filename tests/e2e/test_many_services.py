"""Four services of one server, one of them in a service VM, with layers killed at random under load.

MHV_SOAK_S sets for how many seconds (default 30; tests/soak/run takes 600).
"""

import os
import random
import time

import pytest
from conftest import ensure_flavor, wait_for

SECONDS = float(os.environ.get("MHV_SOAK_S", "30"))
SEED = int(os.environ.get("MHV_SEED", str(int(time.time()))))
FLAVOR = "m1.tiny.watched.often"
LAYERS = ("introspection", "integrity", "heatmap")
READY_S = 180  # a service VM boots, on a host that is busy


class Watched:
    """A server and its layers, as the operator of its host sees them."""

    def __init__(self, host, server):
        self.host, self.server = host, server

    def layers(self):
        (guest,) = [guest for guest in self.host.mhvctl("status")["guests"] if guest["uuid"] == self.server.id]
        return {layer["name"]: layer for layer in guest["layers"]}

    def ready(self):
        layers = self.layers()
        return layers if all(layers.get(name, {}).get("state") == "ready" for name in LAYERS) else None

    def answers(self):
        """Of each layer, one that only a layer at work can give."""
        processes = self.host.mhvctl("introspect", "processes", self.server.id)["processes"]
        assert any(process["pid"] == 1 for process in processes)
        assert self.host.mhvctl("layer", "call", self.server.id, "integrity", "findings")["findings"] == []
        wait_for("some heat", lambda: self.host.mhvctl("layer", "call", self.server.id, "heatmap", "heat")["heat"])

    def processes(self):
        """The process of each layer's sandbox; that of the heat map keeps a QEMU."""
        found = self.host.run("pgrep", "-a", "-P", str(self.host.pid_of("mhvd")), "mhv-jail").splitlines()
        return {name: int(line.split()[0]) for line in found for name in LAYERS if f"mhv-layer-{name}" in line}


@pytest.fixture
def watched(admin, host, servers):
    specs = {
        "mhv:services": "checkpoint,introspection,integrity",
        "trait:CUSTOM_MHV_CHECKPOINT": "required",
        "trait:CUSTOM_MHV_INTROSPECTION": "required",
        "trait:CUSTOM_MHV_INTEGRITY": "required",
        "mhv:checkpoint_interval_s": "1",
        "mhv:checkpoint_keep": "20",
        "mhv:configure_integrity": '{"epoch_ms": 200}',
    }
    ensure_flavor(admin.sdk, FLAVOR, 192, specs)
    watched = Watched(host, servers(FLAVOR))
    admin("server", "service", "add", watched.server.id, "heatmap")
    wait_for("all layers to be ready", watched.ready, READY_S)
    return watched


def test_layers_are_killed_at_random(host, watched):
    assert "--machine" in host.run("ps", "-o", "args=", "-p", str(watched.processes()["heatmap"]))
    server, chance = watched.server, random.Random(SEED)
    print(f"MHV_SEED={SEED}")
    server.busy(pages=500)
    kills, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until or kills < len(LAYERS):
        name = LAYERS[kills] if kills < len(LAYERS) else chance.choice(LAYERS)
        before = watched.layers()
        host.run("kill", "-KILL", str(watched.processes()[name]))
        kills += 1
        wait_for(f"{name} to be started again", lambda name=name, old=before: restarts(watched, name) > old[name]["restarts"])
        layers = wait_for("all layers to be ready again", watched.ready, READY_S)
        others = [other for other in LAYERS if other != name]
        assert [layers[other]["restarts"] for other in others] == [before[other]["restarts"] for other in others]
        for each in LAYERS:
            wait_for(f"epochs of {each}", lambda each=each, old=layers: watched.layers()[each]["epochs"] > old[each]["epochs"], READY_S)
        watched.answers()
        time.sleep(chance.random())
    print(f"{kills} kills; {watched.layers()}")
    server.quiet()
    assert server.status() == "ACTIVE"
    checkpoint = server.checkpoint("after the storm")
    server.restore(checkpoint["id"])
    server.wait_answer()
    server.assert_sound()
    server.assert_store_is_sound()


def restarts(watched, name):
    return watched.layers()[name]["restarts"]
