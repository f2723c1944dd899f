"""A checkpoint as a file for a libvirt that never saw nova-mhv, and back into a new process of our own."""

import json
import shutil

import lab
import pytest


def disk_of(checkpoint):
    return next(d for d in checkpoint["disks"] if d["target"] == "vda")


def snapshot_of(checkpoint):
    return disk_of(checkpoint)["snapshot"]


def test_restore_of_a_guest_that_is_shut_off(guest, engine, host):
    guest.set("state", "kept")
    fingerprint = guest.quiet()
    point = engine.create(guest.name)
    guest.set("state", "lost")
    guest.busy(5000, pages=2000)
    host.virsh("destroy", guest.name)
    engine.wait_state(guest.name, "stopped")
    done = engine.restore(guest.name, point["id"])
    assert not done.get("in_place")
    guest.wait_answer()
    assert guest.get("state") == "kept"
    assert guest.fingerprint() == fingerprint
    guest.assert_whole()

    # It is under tracking again, and the chain goes on.
    engine.wait_state(guest.name, "attached")
    guest.set("state", "after")
    later = engine.create(guest.name)
    assert later["parent"] == point["id"]
    guest.set("state", "lost again")
    engine.restore(guest.name, later["id"])
    assert guest.get("state") == "after"
    guest.assert_whole()


def test_export_runs_on_a_stranger(guest, engine, host, stranger):
    first = engine.create(guest.name)
    guest.set("state", "exported")
    guest.busy(2000, pages=2000)
    fingerprint = guest.quiet()
    point = engine.create(guest.name)
    assert snapshot_of(point) == snapshot_of(first)
    assert disk_of(point)["changed_bytes"] > 0
    guest.set("state", "after the export")
    guest.busy(5000, pages=2000)
    engine.create(guest.name)

    file, disks = guest.folder / "point.save", guest.folder / "disks"
    engine.export(guest.name, point["id"], file, "--disks", disks)
    assert file.read_bytes()[:16] == b"LibvirtQemudSave"
    host.virsh("destroy", guest.name)
    disk = disks / "vda.qcow2"
    assert disk.exists()

    xml = guest.folder / "stranger.xml"
    text = stranger.virsh("save-image-dumpxml", file)
    xml.write_text(text.replace(str(guest.disk), str(disk)))
    stranger.run("mkdir", "-p", "/run/nova-mhv/qmp")
    stranger.run("chmod", "777", "/run/nova-mhv/qmp")
    try:
        stranger.virsh("restore", file, "--xml", xml, "--running")
        guest.wait_answer(60, host=stranger)
        assert guest.ask("get state", host=stranger) == "exported"
        assert guest.ask("mem-fingerprint", host=stranger) == fingerprint
        guest.assert_whole(host=stranger)
        stranger.virsh("suspend", guest.name)
        stranger.virsh("resume", guest.name)
        guest.assert_whole(host=stranger)
    finally:
        stranger.virsh("destroy", guest.name, check=False)


def test_the_disk_of_an_export_is_that_of_the_checkpoint(guest, engine, host):
    """The snapshot that it shares with an earlier one with what was written in between, and nothing that came later."""

    def compare(one, other):
        return host.run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", one, other, check=False).returncode

    guest.quiet()
    first = engine.create(guest.name)
    guest.set("state", "exported")
    guest.busy(100, pages=200)
    host.virsh("suspend", guest.name)
    point = engine.create(guest.name)
    assert snapshot_of(point) == snapshot_of(first)
    assert (disk_of(first)["changed_bytes"], disk_of(point)["changed_bytes"] > 0) == (0, True)
    then = guest.folder / "then.qcow2"
    shutil.copy(guest.disk, then)  # QEMU has written all of it: the guest is stopped
    host.virsh("resume", guest.name)
    guest.set("state", "after the export")
    guest.busy(100, pages=200)
    engine.create(guest.name)

    disks, earlier = guest.folder / "disks", guest.folder / "earlier"
    engine.export(guest.name, point["id"], guest.folder / "point.save", "--disks", disks)
    engine.export(guest.name, first["id"], guest.folder / "first.save", "--disks", earlier)
    assert [file.name for file in disks.iterdir()] == ["vda.qcow2"]
    assert compare(then, disks / "vda.qcow2") == 0
    assert compare(then, earlier / "vda.qcow2") == 1
    with pytest.raises(lab.EngineError) as refused:
        engine.export(guest.name, point["id"], guest.folder / "again.save", "--disks", disks)
    assert refused.value.code == "exists"
    assert compare(then, disks / "vda.qcow2") == 0
    guest.assert_whole()


def test_the_disk_of_an_export_holds_the_snapshot(guest, engine, host):
    point = engine.create(guest.name, "named")
    host.virsh("destroy", guest.name)
    info = json.loads(host.run("qemu-img", "info", "--output=json", "-U", guest.disk).stdout)
    assert snapshot_of(point) in [s["name"] for s in info["snapshots"]]
    engine.wait_state(guest.name, "stopped")
    engine.delete(guest.name, point["id"])
    info = json.loads(host.run("qemu-img", "info", "--output=json", "-U", guest.disk).stdout)
    lab.wait_until(
        "the snapshot to be gone with its checkpoint, at the latest when the guest is up again",
        lambda: snapshot_of(point) not in [s["name"] for s in info.get("snapshots", [])] or _gone_when_up(guest, engine, host, point),
    )


def _gone_when_up(guest, engine, host, point):
    host.virsh("start", guest.name)
    guest.wait_answer()
    engine.wait_state(guest.name, "attached")
    engine.create(guest.name)
    info = json.loads(host.run("qemu-img", "info", "--output=json", "-U", guest.disk).stdout)
    return snapshot_of(point) not in [s["name"] for s in info.get("snapshots", [])]
