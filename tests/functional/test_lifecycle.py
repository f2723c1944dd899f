"""What an operator does to a guest with libvirt goes on working, and the checkpoints follow."""

import lab
import pytest


@pytest.fixture
def followed(guest, engine):
    """A guest with one checkpoint; afterwards the chain has to go on, with a restore that is right."""
    guest.set("state", "kept")
    point = engine.create(guest.name, "kept")
    guest.set("state", "changed")
    yield guest
    engine.wait_state(guest.name, "attached")
    guest.wait_answer()
    guest.assert_whole()
    later = engine.create(guest.name, "later")
    before = guest.quiet()
    again = engine.create(guest.name, "quiet")
    guest.busy(4000, pages=2000)
    guest.set("state", "lost")
    engine.restore(guest.name, again["id"])
    assert guest.fingerprint() == before
    guest.assert_whole()
    engine.restore(guest.name, point["id"])
    assert guest.get("state") == "kept"
    guest.assert_whole()
    engine.restore(guest.name, later["id"])
    guest.assert_whole()
    assert not engine.verify(guest.name).get("problems")


def test_suspend_and_resume(followed, engine, host):
    host.virsh("suspend", followed.name)
    engine.create(followed.name, "while paused")
    assert followed.state == "paused", "a guest that its owner paused stays paused"
    host.virsh("resume", followed.name)
    assert followed.get("state") == "changed"


def test_restore_of_a_paused_guest(followed, engine, host):
    point = engine.create(followed.name)
    host.virsh("suspend", followed.name)
    engine.restore(followed.name, point["id"])
    if followed.state == "paused":
        host.virsh("resume", followed.name)
    assert followed.get("state") == "changed"


def test_reset(followed, host):
    boot = followed.status()["boot"]
    host.virsh("reset", followed.name)
    lab.wait_until("another boot", lambda: followed.status(timeout=lab.BOOT_S)["boot"] != boot, lab.BOOT_S)
    assert followed.get("state") == "changed"


def test_reboot_from_inside(followed, engine, host):
    """The power button, then a start: libvirt makes a new QEMU of the same domain."""
    host.virsh("shutdown", followed.name)
    lab.wait_until("shut off", lambda: followed.state == "shut off")
    engine.wait_state(followed.name, "stopped")
    host.virsh("start", followed.name)
    followed.wait_answer()
    assert followed.get("state") == "changed"


def test_destroy_and_start(followed, engine, host):
    host.virsh("destroy", followed.name)
    engine.wait_state(followed.name, "stopped")
    assert [c["name"] for c in engine.list(followed.name)] == ["kept"]
    host.virsh("start", followed.name)
    followed.wait_answer()
    assert followed.get("state") == "changed"


def test_managed_save(followed, engine, host):
    host.virsh("managedsave", followed.name)
    engine.wait_state(followed.name, "stopped")
    host.virsh("start", followed.name)
    followed.wait_answer()
    assert followed.get("state") == "changed"


def test_hold_stops_the_pauses(make_guest, engine):
    guest = make_guest("memfd")
    engine.attach(guest.name, "--interval-s", "0.2")
    lab.wait_until("an automatic checkpoint", lambda: engine.list(guest.name))
    engine.call("hold", guest.name, "--reason", "a test", "--timeout", "60")
    epoch = engine.wait_state(guest.name, "held")["epoch"]
    with pytest.raises(lab.EngineError) as refused:
        engine.create(guest.name)
    assert refused.value.code == "busy"
    assert engine.status(guest.name)["epoch"] == epoch
    engine.call("release", guest.name)
    engine.wait_state(guest.name, "attached")
    engine.create(guest.name)
    guest.assert_whole()


def test_libvirt_events_of_pauses_come_in_pairs(guest, engine, host):
    """Whatever a checkpoint does, libvirt believes that the guest runs."""
    for _ in range(5):
        engine.create(guest.name)
        assert guest.state == "running"
    engine.restore(guest.name, engine.list(guest.name)[0]["id"])
    assert guest.state == "running"
    host.virsh("domblkinfo", guest.name, "vda")


def test_a_device_comes_and_goes(guest, engine, host):
    """Memory blocks come and go with it: page numbers mean something else, and no checkpoint mixes the two."""

    def again():
        with pytest.raises(lab.EngineError) as caught:
            engine.create(guest.name)
        assert (caught.value.code, caught.value.hint) == ("unavailable", "try again")
        engine.wait_state(guest.name, "attached")

    guest.set("state", "before")
    before = engine.create(guest.name)
    mac = "52:54:00:55:02:02"
    host.virsh("attach-interface", guest.name, "bridge", "br0", "--model", "virtio", "--mac", mac, "--live")
    again()
    guest.set("state", "with")
    larger = engine.create(guest.name)
    assert not larger.get("parent"), "a new tree"
    with pytest.raises(lab.EngineError, match="another memory layout"):
        engine.restore(guest.name, before["id"])
    guest.set("state", "lost")
    engine.restore(guest.name, larger["id"])
    assert guest.get("state") == "with"
    guest.assert_whole()

    host.virsh("detach-interface", guest.name, "bridge", "--mac", mac, "--live")
    lab.wait_until("the device to be gone", lambda: mac not in host.virsh("dumpxml", guest.name))
    again()
    with pytest.raises(lab.EngineError, match="another memory layout"):
        engine.restore(guest.name, larger["id"])
    engine.restore(guest.name, before["id"])
    assert guest.get("state") == "before"
    guest.assert_whole()
