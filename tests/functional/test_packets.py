"""A guest's network by way of its layers: what they hold and drop, and that nothing gets past them, whoever ends.

The layer is cpp/sdk/examples/gate: ``fail-closed`` as it comes, and once more as ``gate-open``.
"""

import json
import os
import shutil
import signal
import socket
import struct
import threading

import lab
import pytest
from test_layers import ask, jails_of, layers, wait_ready

GATE, OPEN = "gate", "gate-open"
ETH_P_ALL = 3


class Sniffer:
    """Counts the frames that a guest gets out to its switch while the engine is at its tap, and keeps the numbers of its echo replies."""

    def __init__(self, guest):
        self.mac = bytes.fromhex(guest.mac.replace(":", ""))
        opens = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket = guest.host._sockets.submit(socket.socket, *opens).result()
        self.socket.bind((guest.tap, 0))
        self.socket.settimeout(0.1)
        self.frames, self.echoes, self.over = 0, [], False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.over:
            try:
                frame = self.socket.recv(2048)
            except TimeoutError:
                continue
            if frame[6:12] != self.mac:
                continue
            self.frames += 1
            if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 0:
                self.echoes.append(struct.unpack("!H", frame[40:42])[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()
        self.socket.close()


def netns(host):
    """Taps that the engine is at."""
    return host.run("ls", "/run/nova-mhv/netns").stdout.split()


def is_plain(guest):
    """The guest's own tap is a port of the bridge, and nothing is left of the engine's."""
    shown = guest.host.run("ip", "-d", "-j", "link", "show", "dev", guest.tap, check=False)
    if shown.returncode:  # just being put back
        return False
    link = json.loads(shown.stdout)[0]
    return link.get("master") == "br0" and link["linkinfo"]["info_kind"] == "tun" and not netns(guest.host)


def is_silent(guest):
    try:
        guest._ask_once("status", guest.host, 7000)
        return False
    except OSError:
        return True


def ping(guest, count):
    """Sends echo requests 1 to `count`, and waits for nothing."""
    opens = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with guest.host._sockets.submit(socket.socket, *opens).result() as link:
        for number in range(1, count + 1):
            checksum = ~(0x0800 + number) & 0xFFFF
            link.sendto(struct.pack("!BBHHH", 8, 0, checksum, 0, number), (guest.ip, 0))


@pytest.fixture(scope="module", autouse=True)
def fail_open_gate(host):
    package = host.bin / "layers" / OPEN
    shutil.copytree(host.bin / "layers" / GATE, package)
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps(manifest | {"name": OPEN, "policy": "fail-open"}))
    yield
    shutil.rmtree(package)


@pytest.fixture
def guest(make_guest, engine):
    guest = make_guest("memfd")
    engine.attach(guest.name, "--service", "checkpoint")
    return guest


def add(engine, guest, name=GATE, mode="pass"):
    engine.call("service", "add", guest.name, name, "--configure", json.dumps({"mode": mode}))
    wait_ready(engine, guest, name)


def mode(engine, guest, value):
    ask(engine, guest, GATE, "mode", {"mode": value})


def test_packets_pass_stop_and_pass_again(engine, guest):
    add(engine, guest)
    assert netns(guest.host) == [guest.tap]
    guest.ask("status")
    assert ask(engine, guest, GATE, "counts")["passed"] > 0
    mode(engine, guest, "drop")
    with Sniffer(guest) as out:
        assert is_silent(guest)
        assert (out.frames, ask(engine, guest, GATE, "counts")["dropped"] > 0) == (0, True)
        mode(engine, guest, "pass")
        guest.ask("status")
        assert out.frames > 0
    assert layers(engine, guest)[GATE]["packets"] > 0
    engine.call("service", "remove", guest.name, GATE)
    assert is_plain(guest)
    guest.ask("status")
    guest.assert_whole()


def test_what_is_held_goes_in_its_order(engine, guest):
    add(engine, guest)
    guest.ask("status")  # each knows the other's address
    mode(engine, guest, "hold")
    with Sniffer(guest) as out:
        ping(guest, 5)
        lab.wait_until("five to be held", lambda: ask(engine, guest, GATE, "counts")["held"] >= 5)
        assert out.frames == 0
        assert ask(engine, guest, GATE, "release") >= 5
        lab.wait_until("the replies", lambda: len(out.echoes) >= 5)
        assert out.echoes == [1, 2, 3, 4, 5]
    mode(engine, guest, "pass")
    ask(engine, guest, GATE, "release")  # what came in between, and keeps back all behind it
    guest.ask("status")


@pytest.mark.parametrize(("name", "passes"), [(OPEN, True), (GATE, False)])
def test_without_the_layer_its_policy_decides(engine, guest, name, passes):
    add(engine, guest, name, "drop" if passes else "pass")
    assert is_silent(guest) == passes
    program = guest.host.bin / "layers" / name / "mhv-layer-gate"
    program.rename(program.with_suffix(".away"))
    try:
        lab.kill(jails_of(guest, name)[0])
        lab.wait_until("it to be gone", lambda: layers(engine, guest)[name]["state"] != "ready")
        if passes:
            guest.ask("status")
        else:
            with Sniffer(guest) as out:
                ping(guest, 3)
                assert is_silent(guest)
                assert out.frames == 0
    finally:
        program.with_suffix(".away").rename(program)
    wait_ready(engine, guest, name)
    if passes:
        lab.wait_until("it to be shut again", lambda: is_silent(guest))
    else:
        guest.ask("status")
    assert layers(engine, guest)[name]["packets_late"] > 0


def test_a_connection_survives_the_worker_and_nothing_leaks(engine, host, guest):
    add(engine, guest, OPEN)
    with host.connect(guest.ip, 7000, 10) as link:
        link.settimeout(60)
        answers = link.makefile("rb")
        link.sendall(b"status\n")
        assert answers.readline().startswith(b"ok")
        mhvd = host.daemon_pid("mhvd")
        worker = engine.status(guest.name)["worker_pid"]
        os.kill(mhvd, signal.SIGSTOP)
        try:
            lab.kill(worker)
            lab.wait_until("the worker to be gone", lambda: not lab.running(worker))
            with Sniffer(guest) as out:
                link.sendall(b"status\n")
                ping(guest, 5)
                assert is_silent(guest)
                assert out.frames == 0
        finally:
            os.kill(mhvd, signal.SIGCONT)
        wait_ready(engine, guest, OPEN)
        assert answers.readline().startswith(b"ok")
    assert netns(host) == [guest.tap]
    guest.assert_whole()


def test_a_new_mhvd_goes_on(engine, host, guest):
    add(engine, guest)
    lab.kill(host.daemon_pid("mhvd"))
    engine.wait_state(guest.name, "attached")
    wait_ready(engine, guest, GATE)
    guest.ask("status")
    assert netns(host) == [guest.tap]
    guest.assert_whole()


def test_the_next_start_finds_the_taps_name_free(engine, host, guest):
    add(engine, guest)
    for _ in range(2):
        host.virsh("destroy", guest.name)
        lab.wait_until("its tap to be given up", lambda: not netns(host), 20)
        host.virsh("start", guest.name)
        engine.wait_state(guest.name, "attached")
        guest.wait_answer()
        wait_ready(engine, guest, GATE)
        guest.ask("status")
        assert netns(host) == [guest.tap]


def test_what_ended_while_mhvd_was_away_is_undone(engine, host, guest):
    add(engine, guest)
    host.drive("daemon", 1, "mhvd", "stop")
    host.virsh("destroy", guest.name)
    assert netns(host) == [guest.tap]
    host.drive("daemon", 1, "mhvd", "start")
    lab.wait_until("its tap to be given up", lambda: not netns(host), 20)
    host.virsh("start", guest.name)
    engine.wait_state(guest.name, "attached")
    guest.wait_answer()


def test_a_tapper_that_is_killed_is_nobodys_matter(engine, host, guest):
    add(engine, guest)
    lab.kill(host.daemon_pid("mhv-tapper"))
    guest.ask("status")
    lab.wait_until("another one", lambda: host.daemon_pid("mhv-tapper"))
    engine.call("service", "remove", guest.name, GATE)
    assert is_plain(guest)
    guest.ask("status")


def test_a_nic_that_is_plugged_in_is_claimed_too(engine, host, guest):
    add(engine, guest)
    more = guest.folder / "nic.xml"
    more.write_text("""
      <interface type='bridge'>
        <mac address='52:54:00:55:01:01'/><source bridge='br0'/><target dev='tap-more'/><model type='virtio'/>
      </interface>""")
    host.virsh("attach-device", guest.name, more, "--live")
    lab.wait_until("the engine to be at its tap", lambda: netns(host) == sorted([guest.tap, "tap-more"]))
    host.virsh("detach-device", guest.name, more, "--live")
    lab.wait_until("its tap to be given up", lambda: netns(host) == [guest.tap])
    guest.ask("status")


def test_detach_and_forget_give_the_old_way_back(engine, host, guest):
    add(engine, guest)
    engine.detach(guest.name)
    assert is_plain(guest)
    guest.ask("status")
    engine.attach(guest.name, "--service", "checkpoint", "--service", GATE)
    assert netns(host) == [guest.tap]
    wait_ready(engine, guest, GATE)
    guest.ask("status")
    engine.forget(guest.uuid)
    assert is_plain(guest)
    guest.ask("status")


def test_a_checkpoint_and_a_restore_beside_a_gate(engine, guest):
    add(engine, guest)
    checkpoint = engine.create(guest.name)
    guest.set("a", "1")
    engine.restore(guest.name, checkpoint["id"])
    assert guest.get("a") is None
    assert ask(engine, guest, GATE, "counts")["passed"] > 0
    guest.assert_whole()


def test_without_the_tapper_it_is_refused(engine, host, guest):
    host.drive("daemon", 1, "mhv-tapper", "stop")
    try:
        with pytest.raises(lab.EngineError) as refused:
            engine.call("service", "add", guest.name, GATE)
        assert (refused.value.code, "mhv-tapper" in refused.value.message) == ("unavailable", True)
    finally:
        host.drive("daemon", 1, "mhv-tapper", "start")
    assert engine.status(guest.name)["options"]["services"] == ["checkpoint"]
    assert is_plain(guest)
    add(engine, guest)
    guest.ask("status")


def test_what_is_no_tap_of_a_switch_is_refused(engine, host, guest):
    host.run("ip", "link", "set", guest.tap, "nomaster")
    try:
        with pytest.raises(lab.EngineError) as refused:
            engine.call("service", "add", guest.name, GATE)
        assert (refused.value.code, "port of no bridge" in refused.value.message) == ("unsupported", True)
    finally:
        host.run("ip", "link", "set", guest.tap, "master", "br0")
    assert engine.status(guest.name)["options"]["services"] == ["checkpoint"]
    guest.ask("status")
