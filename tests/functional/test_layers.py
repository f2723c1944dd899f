"""Layers on a guest that runs: what they answer, that they come back, that they take nothing from it."""

import json
import re

import lab
import pytest


def layers(engine, guest):
    return {layer["name"]: layer for layer in engine.status(guest.name).get("layers", [])}


def wait_ready(engine, guest, *names):
    def ready():
        seen = layers(engine, guest)
        return all(seen.get(name, {}).get("state") == "ready" for name in names) and seen

    return lab.wait_until(f"{names} to be ready", ready)


def ask(engine, guest, layer, method, arguments=None):
    return engine.call("layer", "call", guest.name, layer, method, json.dumps(arguments or {}))


def introspect(engine, guest, kind, *more):
    return engine.call("introspect", kind, guest.name, *more)[kind]


@pytest.fixture
def guest(make_guest, engine):
    guest = make_guest("memfd")
    engine.attach(guest.name, "--service", "checkpoint", "--service", "introspection")
    wait_ready(engine, guest, "introspection")
    return guest


def jail_of(host, layer):
    """Process ids of a layer's mhv-jail."""
    found = host.run("pgrep", "-f", f"mhv-jail --package [^ ]*/{layer} ", check=False).stdout.split()
    return [int(pid) for pid in found]


def test_processes_of_an_unmodified_guest(engine, guest):
    processes = introspect(engine, guest, "processes")
    assert processes[0]["name"] == "swapper/0" or processes[0]["pid"] == 1
    assert any(process["pid"] == 1 and process["command"] for process in processes)
    kernel = introspect(engine, guest, "kernel")
    assert re.match(r"Linux version \d+\.\d+", kernel["banner"])
    guest.assert_whole()


def test_a_checkpoint_and_a_restore_beside_a_layer(engine, guest):
    checkpoint = engine.create(guest.name)
    before = introspect(engine, guest, "processes")
    guest.set("a", "1")
    engine.restore(guest.name, checkpoint["id"])
    assert guest.get("a") is None
    after = introspect(engine, guest, "processes")
    assert {p["task"] for p in before} == {p["task"] for p in after}
    guest.assert_whole()
