"""A checkpoint as a file for a libvirt that never saw nova-mhv, and back into a new process of our own."""

import json
import re
import shutil
import subprocess

import lab
import pytest

MIB = 1 << 20
ABOVE = 4 << 30
BELOW_VGA = 0xA0000  # from there to 1 MiB, VGA's memory and ROMs may lie over the RAM


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


@pytest.mark.parametrize("kind, mib, below", [("uefi", 2900, 2048), ("numa", 256, 256)])
def test_a_core_is_what_qemu_dumps(make_guest, engine, host, kind, mib, below):
    """The same memory at the same guest-physical addresses, on both sides of the devices', and the same registers."""
    guest = make_guest(kind, ram_mib=mib)
    engine.attach(guest.name)
    guest.suspend()
    point = engine.create(guest.name)
    file, qemus = guest.folder / "core", guest.folder / "qemus"
    done = engine.export(guest.name, point["id"], file, "--format", "elf")
    assert done["bytes"] == file.stat().st_size
    assert file.stat().st_blocks * 512 < done["bytes"] / 2, "zero pages are holes"
    host.virsh("dump", "--memory-only", guest.name, qemus)

    core, dump = Core(file), Core(qemus)
    above = [(ABOVE, (mib - below) * MIB)] if mib > below else []
    assert [part[:2] for part in core.parts("LOAD")] == [(0, below * MIB), *above]
    assert core.read(0, BELOW_VGA) == dump.read(0, BELOW_VGA)
    for start, size in [(MIB, (below - 1) * MIB), *above]:
        for at in range(start, start + size, MIB):
            assert core.read(at, MIB) == dump.read(at, MIB), f"{at:#x}"
    assert core.notes() == dump.notes()
    file.unlink()
    qemus.unlink()
    host.virsh("resume", guest.name)
    guest.assert_whole()


class Core:
    """An ELF core as readelf shows it."""

    def __init__(self, file):
        self.file = file
        done = subprocess.run(["readelf", "-hlW", file], capture_output=True, text=True, check=True)
        self.said = done.stdout
        assert "CORE (Core file)" in self.said and "X86-64" in self.said and not done.stderr, done

    def parts(self, kind):
        """Guest-physical address, size and place in the file of each."""
        rows = re.findall(rf"^ +{kind} +0x([0-9a-f]+) 0x[0-9a-f]+ 0x([0-9a-f]+) 0x([0-9a-f]+)", self.said, re.MULTILINE)
        return [(int(address, 16), int(size, 16), int(place, 16)) for place, address, size in rows]

    def read(self, address, size):
        start, _, place = next(part for part in self.parts("LOAD") if part[0] <= address and address + size <= part[0] + part[1])
        return self._bytes(place + address - start, size)

    def notes(self):
        [(_, size, place)] = self.parts("NOTE")
        return self._bytes(place, size)

    def _bytes(self, place, size):
        with open(self.file, "rb") as file:
            file.seek(place)
            return file.read(size)


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
