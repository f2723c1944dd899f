"""Integrity holds the network of a guest whose kernel was tampered with: nothing passes until somebody lets it, whoever ends meanwhile."""

import lab
import pytest
from test_integrity import Kernel, attach, read_only_data, wait_for_checks
from test_layers import ask, layers, wait_ready
from test_packets import GATE, Sniffer, is_plain, is_silent, netns, ping

INTEGRITY = "integrity"


def hold_reason(engine, guest):
    return layers(engine, guest)[INTEGRITY].get("network_hold", "")


def assert_shut(guest):
    with Sniffer(guest) as out:
        ping(guest, 5)
        assert is_silent(guest)
        assert out.frames == 0


@pytest.fixture
def watched(make_guest, engine):
    guest = make_guest("memfd")
    attach(engine, guest, on_finding="hold")
    return guest


@pytest.fixture
def tamper(engine, watched):
    """Changes what no processor runs into, and at the end puts it back: others get this guest."""
    saved = []

    def change():
        wait_for_checks(engine, watched, 3)
        watched.suspend()
        kernel = Kernel(engine, watched)
        ((at, data),) = read_only_data(kernel)[1]
        saved.append((watched.pid, kernel, at, kernel.read(at, len(data))))
        kernel.write(at, data)
        watched.host.virsh("resume", watched.name)

    yield change
    for pid, kernel, at, data in saved:
        if pid == watched.pid:
            kernel.write(at, data)


@pytest.fixture
def held(engine, watched, tamper):
    assert hold_reason(engine, watched) == ""
    watched.ask("status")
    tamper()
    lab.wait_until("its network to be held", lambda: netns(watched.host) == [watched.tap] and is_silent(watched))
    return watched


def release(engine, guest):
    assert ask(engine, guest, INTEGRITY, "release") == {"released": True}
    lab.wait_until("its network to be let go", lambda: is_plain(guest))
    assert hold_reason(engine, guest) == ""
    guest.ask("status")


def test_a_connection_waits_until_it_is_released(engine, host, watched, tamper):
    with host.connect(watched.ip, 7000, 10) as link:
        link.settimeout(120)
        answers = link.makefile("rb")
        link.sendall(b"status\n")
        assert answers.readline().startswith(b"ok")
        tamper()
        lab.wait_until("its network to be held", lambda: netns(host) == [watched.tap] and is_silent(watched))
        assert "kernel_rodata" in hold_reason(engine, watched)
        link.sendall(b"status\n")
        assert_shut(watched)
        release(engine, watched)
        assert answers.readline().startswith(b"ok")
    watched.assert_whole()


def test_it_outlives_worker_layer_and_mhvd(engine, host, held):
    for end in (
        lambda: engine.status(held.name)["worker_pid"],
        lambda: host.daemon_pid("mhvd"),
        lambda: host.daemon_pid("mhv-tapper"),
    ):
        lab.kill(end())
        assert_shut(held)
        engine.wait_state(held.name, "attached")
        wait_ready(engine, held, INTEGRITY)
        assert "kernel_rodata" in hold_reason(engine, held)
        assert_shut(held)
    release(engine, held)
    held.assert_whole()


def test_it_outlives_the_guests_next_start(engine, host, held):
    host.virsh("destroy", held.name)
    lab.wait_until("its tap to be given up", lambda: not netns(host), 20)
    assert "kernel_rodata" in hold_reason(engine, held)
    host.virsh("start", held.name)
    engine.wait_state(held.name, "attached")
    assert netns(host) == [held.tap]
    wait_ready(engine, held, INTEGRITY)
    assert_shut(held)
    engine.call("service", "remove", held.name, INTEGRITY)
    lab.wait_until("its network to be let go", lambda: is_plain(held))
    held.wait_answer()


def test_what_another_layer_keeps_goes_nowhere(engine, host, watched, tamper):
    engine.call("service", "add", watched.name, GATE)
    wait_ready(engine, watched, GATE)
    watched.ask("status")
    ask(engine, watched, GATE, "mode", {"mode": "hold"})
    ping(watched, 3)
    lab.wait_until("three to be kept", lambda: ask(engine, watched, GATE, "counts")["held"] >= 3)
    with Sniffer(watched) as out:
        tamper()
        lab.wait_until("its network to be held", lambda: hold_reason(engine, watched))
        ask(engine, watched, GATE, "mode", {"mode": "pass"})
        lab.wait_until("the packets to be gone", lambda: ask(engine, watched, GATE, "release") >= 0 and is_silent(watched))
        assert out.frames == 0
        assert ask(engine, watched, INTEGRITY, "release") == {"released": True}
        lab.wait_until("its network by way of the gate", lambda: not is_silent(watched))
        assert out.echoes == []
    assert netns(host) == [watched.tap]
    watched.assert_whole()


def test_what_cannot_be_held_is_told_and_tried_again(engine, host, watched, tamper):
    host.run("ip", "link", "set", watched.tap, "nomaster")
    try:
        tamper()
        lab.wait_until("it to be told", lambda: "held, and is not" in engine.status(watched.name).get("message", ""))
    finally:
        host.run("ip", "link", "set", watched.tap, "master", "br0")
    lab.wait_until("its network to be held", lambda: netns(host) == [watched.tap] and is_silent(watched))
    release(engine, watched)
