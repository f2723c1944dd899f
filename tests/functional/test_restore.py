"""A guest that is off starts at a checkpoint at once, and gets its memory while it runs: right under load, and whatever dies.

MHV_KILLS and MHV_SEED as in test_kill.py.
"""

import concurrent.futures
import contextlib
import os
import re
import signal
import time

import lab
import pytest
from test_kill import KILLS, SEED, VICTIMS, Storm

# Enough that a fill takes a while, even where nobody else computes.
LARGE = {"mib": 160, "ram_mib": 320}


@pytest.fixture(params=["memfd", "anon", "vcpus4"])
def large(request, make_guest, engine):
    """An attached guest under load, whose `point` is a checkpoint of it at `state` kept."""
    kind, more = ("memfd", {"vcpus": 4}) if request.param == "vcpus4" else (request.param, {})
    guest = make_guest(kind, **LARGE, **more)
    engine.attach(guest.name)
    guest.busy(3000, pages=1000)
    guest.set("state", "kept")
    guest.point = engine.create(guest.name)
    guest.set("state", "lost")
    guest.busy(3000, pages=1000)
    return guest


def shut_off(guest, engine, host):
    host.virsh("destroy", guest.name)
    engine.wait_state(guest.name, "stopped")


def filling(guest, engine):
    return (engine.status(guest.name) or {}).get("filling", "")


def wait_filled(guest, engine):
    lab.wait_until("all memory to be there", lambda: not filling(guest, engine), 120)


def start_at(guest, engine, host, checkpoint):
    shut_off(guest, engine, host)
    done = engine.restore(guest.name, checkpoint["id"])
    assert not done.get("in_place")
    assert guest.state == "running"


def start_filling(guest, engine, host, checkpoint):
    """As start_at(), and its memory is not all there: on a busy machine it may be before anybody looks, so perhaps again."""

    def runs_before_its_memory_is_there():
        start_at(guest, engine, host, checkpoint)
        return filling(guest, engine) == checkpoint["id"]

    lab.wait_until("the guest to run before its memory is there", runs_before_its_memory_is_there, 120)


def test_runs_at_once_and_then_is_an_ordinary_guest(large, engine, host):
    start_filling(large, engine, host, large.point)
    large.wait_answer()
    assert large.get("state") == "kept"
    large.busy(3000)
    large.assert_whole()
    wait_filled(large, engine)
    large.assert_whole()

    # What it wrote since, and nothing else of it, differs from the checkpoint.
    large.set("state", "after")
    later = engine.create(large.name)
    assert later["parent"] == large.point["id"]
    if large.kind != "anon":  # there, what was filled counts as written, and is looked at once
        assert later["pages"] < large.point["pages"] / 2
    large.set("state", "lost again")
    engine.restore(large.name, later["id"])
    assert large.get("state") == "after"
    large.assert_whole()
    engine.restore(large.name, large.point["id"])
    assert large.get("state") == "kept"
    large.assert_whole()
    assert not engine.verify(large.name).get("problems")


def test_whatever_reads_memory_waits_until_it_is_there(large, engine, host):
    start_filling(large, engine, host, large.point)
    host.virsh("suspend", large.name)
    early = engine.create(large.name, "early")
    assert not filling(large, engine)
    assert large.state == "paused"
    digests = large.ram_digests()
    host.virsh("resume", large.name)
    assert large.get("state") == "kept"
    large.set("state", "lost")
    large.busy(4000, pages=3000)

    # In place, over what tracking says of pages that were filled ...
    host.virsh("suspend", large.name)
    engine.restore(large.name, early["id"])
    assert large.ram_digests() == digests
    host.virsh("resume", large.name)
    large.assert_whole()
    # ... and into a third process, page by page.
    start_at(large, engine, host, early)
    assert large.get("state") == "kept"
    large.assert_whole()


def test_a_fill_comes_before_a_detach_and_a_delete(large, engine, host):
    start_at(large, engine, host, large.point)
    with pytest.raises(lab.EngineError) as refused:
        engine.detach(large.name)
    assert refused.value.code == "busy"
    engine.delete(large.name, large.point["id"])
    assert not filling(large, engine)
    assert large.get("state") == "kept"
    large.assert_whole()
    engine.detach(large.name)
    large.assert_whole()


def test_a_hold_puts_off_the_stop_at_the_end(large, engine, host):
    start_filling(large, engine, host, large.point)
    engine.call("hold", large.name, "--reason", "a test", "--timeout", "600")
    assert filling(large, engine)
    large.assert_whole()
    with pytest.raises(lab.EngineError) as refused:
        engine.create(large.name)
    assert refused.value.code == "busy"
    assert filling(large, engine)
    engine.call("release", large.name)
    wait_filled(large, engine)
    large.assert_whole()
    assert engine.create(large.name)["parent"] == large.point["id"]


def test_a_layer_waits_for_all_memory(large, engine, host):
    """What it would find where memory is still to come is not the guest's."""

    def introspection():
        (layer,) = [one for one in engine.status(large.name)["layers"] if one["name"] == "introspection"]
        return layer["state"]

    start_filling(large, engine, host, large.point)
    engine.call("hold", large.name, "--reason", "a test", "--timeout", "600")
    engine.call("service", "add", large.name, "introspection")
    for _ in range(5):
        large.assert_whole()
        assert introspection() == "starting" and filling(large, engine)
    engine.call("release", large.name)
    wait_filled(large, engine)
    lab.wait_until("the layer to be ready", lambda: introspection() == "ready")
    assert engine.call("introspect", "processes", large.name)["processes"]
    engine.call("service", "remove", large.name, "introspection")
    large.assert_whole()


def test_a_device_comes_during_the_fill(large, engine, host):
    start_at(large, engine, host, large.point)
    mac = "52:54:00:55:02:03"
    host.virsh("attach-interface", large.name, "bridge", "br0", "--model", "virtio", "--mac", mac, "--live")
    lab.kill((engine.status(large.name) or {})["worker_pid"])
    large.assert_whole(timeout=120)
    host.virsh("detach-interface", large.name, "bridge", "--mac", mac, "--live")
    lab.wait_until("the device to be gone", lambda: mac not in host.virsh("dumpxml", large.name))
    wait_filled(large, engine)
    large.assert_whole()


def test_memory_given_back_during_the_fill(large, engine, host):
    def balloon(mib):
        host.virsh("setmem", large.name, f"{mib}M", "--live")
        lab.wait_until(
            f"the balloon to leave {mib} MiB",
            lambda: dict(line.split() for line in host.virsh("dommemstat", large.name).splitlines())["actual"] == str(mib << 10),
        )

    start_at(large, engine, host, large.point)
    balloon(large.ram_mib - 48)
    balloon(large.ram_mib)
    large.assert_whole()
    wait_filled(large, engine)
    large.assert_whole()
    host.virsh("suspend", large.name)
    point = engine.create(large.name)
    digests = large.ram_digests()
    host.virsh("resume", large.name)
    large.busy(4000, pages=2000)
    host.virsh("suspend", large.name)
    engine.restore(large.name, point["id"])
    assert large.ram_digests() == digests
    host.virsh("resume", large.name)
    large.assert_whole()


def taken_over(host):
    """MiB that each worker which took over a fill had still to bring."""
    return [int(mib) for mib in re.findall(r"where a former worker ended, (\d+) MiB to go", host.log("mhvd"))]


@pytest.mark.parametrize("victim", ["worker", "mhvd"])
def test_death_in_the_middle_of_a_fill(large, engine, host, victim):
    """The worker stands still while the guest asks for memory, and then dies: what waits gets its pages from the next one."""
    storm = Storm(host, engine, large)
    before = len(taken_over(host))
    start_at(large, engine, host, large.point)
    for _ in range(3):
        if not filling(large, engine):
            break
        worker = storm.pid_of("worker")
        os.kill(worker, signal.SIGSTOP)
        if victim == "mhvd":
            lab.kill(storm.pid_of("mhvd"))
        lab.kill(worker)
        lab.wait_until("another worker", lambda old=worker: storm.pid_of("worker") not in (0, old), 60)
        engine.wait_state(large.name, "attached", 90)
    assert max(taken_over(host)[before:]) > 20, "it was in the middle"
    large.wait_answer(60)
    assert large.get("state") == "kept"
    large.assert_whole()
    wait_filled(large, engine)
    large.assert_whole()
    large.set("state", "after")
    later = engine.create(large.name)
    assert later["parent"] == large.point["id"]
    large.busy(4000, pages=2000)
    engine.restore(large.name, later["id"])
    assert large.get("state") == "after"
    large.assert_whole()


def test_mhvd_ends_in_the_middle_of_a_fill(large, engine, host):
    """Its worker brings the rest before it ends: the guest does not wait for the next mhvd."""
    start_filling(large, engine, host, large.point)
    host.drive("daemon", host.number, "mhvd", "stop")
    try:
        assert large.get("state") == "kept"
        large.assert_whole()
    finally:
        host.drive("daemon", host.number, "mhvd", "start")
    engine.wait_state(large.name, "attached", 90)
    wait_filled(large, engine)
    large.assert_whole()


def test_libvirt_is_killed_while_it_starts_the_guest(make_guest, engine, host):
    """libvirt holds such a guest busy for ever: the engine says so, knows that it does not run, and what the operator does helps."""
    guest = make_guest("memfd")
    engine.attach(guest.name)
    storm = Storm(host, engine, guest)
    guest.set("state", "kept")
    point = engine.create(guest.name)
    for _ in range(30):
        shut_off(guest, engine, host)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            restored = pool.submit(engine.restore, guest.name, point["id"])
            while not restored.done() and not storm.stuck_in_libvirt():
                time.sleep(0.001)
            lab.kill(storm.pid_of("libvirtd"))
            with contextlib.suppress(lab.EngineError):
                restored.result()
        storm.services_are_back()
        if storm.stuck_in_libvirt():
            break
        storm.destroy()
        engine.wait_state(guest.name, "stopped")
        engine.restore(guest.name, point["id"])
    assert storm.stuck_in_libvirt(), "libvirt was never killed at the right moment"
    engine.wait_state(guest.name, "stopped")
    with pytest.raises(lab.EngineError) as refused:
        engine.restore(guest.name, point["id"])
    assert refused.value.code == "busy"
    assert "doc/restore.rst" in refused.value.hint
    storm.free_in_libvirt()
    engine.restore(guest.name, point["id"])
    guest.wait_answer(60)
    assert guest.get("state") == "kept"
    guest.assert_whole()


@pytest.mark.storm
def test_storm_of_kills(large, engine, host):
    """Some process dies at a random moment of a start at a checkpoint: it is done, or the guest is off, or has not run."""
    print(f"MHV_SEED={SEED} MHV_KILLS={KILLS}")
    storm = Storm(host, engine, large)
    for _ in range((KILLS + 3) // 4):
        shut_off(large, engine, host)
        result = storm.strike(lambda: engine.restore(large.name, large.point["id"]), storm.random.choice(VICTIMS))
        storm.services_are_back()
        if isinstance(result, dict):
            engine.wait_state(large.name, "attached", 90)
            assert large.state == "running"
        if large.state != "running":  # it has not run, or was ended again: another try is right
            storm.destroy()
            engine.wait_state(large.name, "stopped", 90)
            engine.restore(large.name, large.point["id"])
        if storm.random.random() < 0.5:
            pid = storm.pid_of("worker")
            time.sleep(storm.random.uniform(0, 0.5))
            if pid:
                lab.kill(pid)
        large.wait_answer(60)
        engine.wait_state(large.name, "attached", 90)
        assert large.get("state") == "kept"
        large.assert_whole()
        wait_filled(large, engine)
        large.assert_whole()
