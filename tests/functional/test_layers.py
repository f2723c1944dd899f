"""Layers on a guest that runs: what they answer, that they come back, that they take nothing from it."""

import json
import re
import subprocess

import lab
import pytest
from test_bad_input import store


def layers(engine, guest):
    return {layer["name"]: layer for layer in engine.status(guest.name).get("layers", [])}


def wait_ready(engine, guest, *names):
    def ready():
        seen = layers(engine, guest)
        return all(seen.get(name, {}).get("state") == "ready" for name in names) and seen

    return lab.wait_until(f"{names} to be ready", ready)


def ask(engine, guest, layer, method, arguments=None):
    return engine.call("layer", "call", guest.name, layer, method, json.dumps(arguments or {}))[method]


def lasting(processes):
    """Without the kernel's own, which it starts and ends as it likes."""
    return {process["task"] for process in processes if not process["kernel_thread"]}


def introspect(engine, guest, kind, *more):
    return engine.call("introspect", kind, guest.name, *more)[kind]


@pytest.fixture
def guest(make_guest, engine):
    guest = make_guest("memfd")
    engine.attach(guest.name, "--service", "checkpoint", "--service", "introspection")
    wait_ready(engine, guest, "introspection")
    return guest


def jails_of(guest, layer):
    """Process ids of a layer's mhv-jail, without what is inside."""
    mhvd = str(guest.host.daemon_pid("mhvd"))
    return [int(pid) for pid in guest.host.run("pgrep", "-P", mhvd, "-f", f"mhv-jail .*layers/{layer} ", check=False).stdout.split()]


def test_processes_of_an_unmodified_guest(engine, guest):
    processes = introspect(engine, guest, "processes")
    assert any(process["pid"] == 1 and process["command"] for process in processes)
    assert re.match(r"Linux version \d+\.\d+", introspect(engine, guest, "kernel")[0]["banner"])
    guest.assert_whole()


def test_a_checkpoint_and_a_restore_beside_a_layer(engine, guest):
    checkpoint = engine.create(guest.name)
    before = introspect(engine, guest, "processes")
    guest.set("a", "1")
    engine.restore(guest.name, checkpoint["id"])
    assert guest.get("a") is None
    after = introspect(engine, guest, "processes")
    assert lasting(before) == lasting(after)
    guest.assert_whole()


def test_layers_come_and_go_on_a_guest_that_runs(engine, guest):
    engine.call("service", "add", guest.name, "heatmap")
    wait_ready(engine, guest, "introspection", "heatmap")
    guest.busy(500)
    lab.wait_until("some heat", lambda: ask(engine, guest, "heatmap", "heat"))
    engine.call("service", "remove", guest.name, "heatmap")
    assert "heatmap" not in layers(engine, guest)
    lab.wait_until("its process to be gone", lambda: not jails_of(guest, "heatmap"))
    with pytest.raises(lab.EngineError) as refused:
        ask(engine, guest, "heatmap", "heat")
    assert refused.value.code == "not-found"
    introspect(engine, guest, "processes")
    guest.assert_whole()


def test_what_does_not_exist_is_refused(engine, guest):
    with pytest.raises(lab.EngineError) as refused:
        engine.call("service", "add", guest.name, "warp")
    assert (refused.value.code, "introspection" in refused.value.hint) == ("invalid", True)
    with pytest.raises(lab.EngineError) as refused:
        ask(engine, guest, "introspection", "teapots")
    assert refused.value.code == "invalid"
    with pytest.raises(lab.EngineError) as refused:
        engine.call("service", "add", guest.name, "heatmap", "--configure", '{"event_every": "often"}')
    assert refused.value.code == "invalid"


def test_a_layer_that_is_killed_comes_back(engine, guest):
    engine.call("service", "add", guest.name, "heatmap")
    wait_ready(engine, guest, "heatmap")
    for round in range(1, 4):
        (victim,) = jails_of(guest, "introspection")
        lab.kill(victim)
        lab.wait_until("another process", lambda old=victim: jails_of(guest, "introspection") not in ([], [old]))
        assert wait_ready(engine, guest, "introspection")["introspection"]["restarts"] == round
        introspect(engine, guest, "processes")
    assert layers(engine, guest)["heatmap"].get("restarts", 0) == 0
    guest.assert_whole()


def test_a_layer_beside_a_recorded_guest(engine, host, guest, tmp_path):
    for _ in range(2):
        guest.busy(100)
        engine.create(guest.name)
    live = introspect(engine, guest, "processes")
    engine.call("detach", guest.name)
    recording = tmp_path / "recording"
    host.run("cp", "-a", store(host, guest), recording)

    def replay(package, *options):
        said = host.run(host.bin / "mhvctl", "layer", "run", package, "--replay", recording, *options)
        lines = [json.loads(line) for line in said.stdout.splitlines()]
        assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2]
        return lines

    answer = replay(host.bin / "layers/introspection", "--call", "processes")[-1]["answer"]
    assert lasting(answer["result"]) == lasting(live)
    subprocess.run([host.bin / "mhvctl", "layer", "new", "mine", "--python"], cwd=tmp_path, check=True, capture_output=True)
    lines = replay(tmp_path / "mine", "--configure", '{"alert_above_mib": 0}', "--call", "total", "--call", "kernel")
    total, kernel = (line["answer"]["result"] for line in lines if "answer" in line)
    assert total["bytes"] > 0 and kernel.startswith("Linux version")
    guest.assert_whole()


def test_a_guest_is_recorded_and_left_as_it_was(engine, host, make_guest, tmp_path):
    guest = make_guest("memfd")
    recording = tmp_path / "recording"
    run = ("layer", "run", host.bin / "layers/introspection", "--record", guest.name, "--replay", recording)
    said = host.run(host.bin / "mhvctl", *run, "--epochs", "3", "--every", "0.2", "--call", "processes")
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]
    assert lines[-1]["answer"]["result"]
    assert engine.status(guest.name) is None
    assert guest.uuid not in host.run("ls", "/var/lib/nova-mhv/guests").stdout
    with pytest.raises(lab.EngineError) as refused:
        engine.call(*run)
    assert refused.value.code == "exists" and "recording" in str(refused.value)
    engine.attach(guest.name)
    kept = engine.create(guest.name)
    with pytest.raises(lab.EngineError) as refused:
        engine.call(*run[:-1], tmp_path / "another")
    assert refused.value.code == "exists" and guest.name in str(refused.value)
    assert [one["id"] for one in engine.list(guest.name)] == [kept["id"]]
    guest.assert_whole()


def test_layers_survive_the_worker(engine, host, guest):
    killed = engine.status(guest.name)["worker_pid"]
    lab.kill(killed)
    # Until mhvd knows of its end, its last words stand.
    lab.wait_until("another worker", lambda: engine.status(guest.name).get("worker_pid", 0) not in (0, killed))
    engine.wait_state(guest.name, "attached")
    wait_ready(engine, guest, "introspection")
    introspect(engine, guest, "processes")
    assert len(jails_of(guest, "introspection")) == 1
    guest.assert_whole()


def test_what_only_a_layer_was_told_of_is_in_the_next_checkpoint(engine, host, guest):
    """The kernel tells of a written page once: what a layer's epoch has heard of, another worker has to find out."""
    engine.call("service", "add", guest.name, "heatmap")
    wait_ready(engine, guest, "heatmap")
    engine.create(guest.name)
    guest.busy(2000, pages=500)
    guest.quiet()
    guest.suspend()
    before = guest.ram_digests()
    told = layers(engine, guest)["heatmap"]["epochs"]
    lab.wait_until("two more epochs of the layer", lambda: layers(engine, guest)["heatmap"]["epochs"] >= told + 2)
    killed = engine.status(guest.name)["worker_pid"]
    lab.kill(killed)
    lab.wait_until("another worker", lambda: engine.status(guest.name).get("worker_pid", 0) not in (0, killed))
    engine.wait_state(guest.name, "attached")
    checkpoint = engine.create(guest.name)
    host.virsh("resume", guest.name)
    guest.busy(2000, pages=500)
    guest.suspend()
    engine.restore(guest.name, checkpoint["id"])
    assert guest.ram_digests() == before
    host.virsh("resume", guest.name)
    guest.assert_whole()


def test_a_guest_that_starts_at_a_checkpoint_has_its_layers(engine, host, guest):
    guest.set("a", "1")
    checkpoint = engine.create(guest.name)
    guest.set("a", "2")
    host.virsh("destroy", guest.name)
    engine.wait_state(guest.name, "stopped")
    lab.wait_until("its layer to be gone", lambda: not jails_of(guest, "introspection"))
    engine.restore(guest.name, checkpoint["id"])
    guest.wait_answer()
    assert guest.get("a") == "1"
    wait_ready(engine, guest, "introspection")
    assert introspect(engine, guest, "processes")
    guest.assert_whole()


@pytest.fixture
def package(host, tmp_path):
    """A vendor's, as it comes from `mhvctl layer new`; what is put into the host is taken away again."""

    def run(*command):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    run(host.bin / "mhvctl", "layer", "new", "counter", "--python")
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", "secret.pem")
    run("openssl", "pkey", "-in", "secret.pem", "-pubout", "-out", "public.pem")
    run(host.bin / "mhvctl", "layer", "pack", "counter", "--key", "secret.pem", "--output", "counter.tar")
    yield tmp_path / "counter.tar"
    host.run("rm", "-rf", "/etc/nova-mhv/vendors", "/var/lib/nova-mhv/layers")


def test_a_vendors_layer_in_python(engine, host, guest, package):
    with pytest.raises(lab.EngineError) as refused:
        engine.call("layer", "install", package)
    assert refused.value.code == "permission" and "vendor example" in str(refused.value)
    host.run("install", "-D", "-m", "0644", package.with_name("public.pem"), "/etc/nova-mhv/vendors/example.pem")
    engine.call("layer", "install", package)
    engine.call("service", "add", guest.name, "counter")
    wait_ready(engine, guest, "introspection", "counter")
    guest.busy(500)
    lab.wait_until("pages to be counted", lambda: ask(engine, guest, "counter", "total")["bytes"])
    assert "Linux version" in ask(engine, guest, "counter", "kernel")
    guest.assert_whole()
    host.run("rm", "/etc/nova-mhv/vendors/example.pem")
    engine.call("service", "remove", guest.name, "counter")
    with pytest.raises(lab.EngineError) as refused:
        engine.call("service", "add", guest.name, "counter")
    assert refused.value.code == "permission" and "vendor example" in str(refused.value)
    assert set(layers(engine, guest)) == {"introspection"}
    able = {one["service"]: one for one in engine.call("self-test")["capabilities"]}
    assert not able["counter"].get("available") and "vendor example" in able["counter"]["reason"]
