"""Disk epochs on real libvirt guests: an epoch journal under a running disk, killed, full, rolled back, and taken out again."""

import hashlib
import pathlib
import shutil
import subprocess
import tempfile

import lab
import pytest
import slide


@pytest.fixture(scope="module")
def place():
    """A folder with a name short enough for sockets in it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mhv-disk-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def disk_host(place):
    """libvirt alone: what is tested here needs no engine."""
    host = lab.Host(place)
    slide.programs()
    try:
        host.start(engine=False)
        yield host
    finally:
        host.stop()


@pytest.fixture(scope="module")
def disk_images(place):
    subprocess.run([lab.TOP / "devstack/guest/build", place / "images"], check=True, stdout=subprocess.DEVNULL)
    return place / "images"


@pytest.fixture
def under(disk_host, disk_images, place):
    """under(format, options...): a guest that writes its disk all the time, with a journal under that disk."""
    made = []

    def make(kind, *options):
        guest = lab.Guest(disk_host, disk_images, place / "guests", "anon")
        if kind == "raw":
            guest.disk_format, guest.disk = "raw", guest.folder / "disk.raw"
            subprocess.run(["qemu-img", "convert", "-O", "raw", disk_images / "root.qcow2", guest.disk], check=True)
        guest.start()
        guest.ask("disk-rate 200")
        made.append((guest, slide.Slide(disk_host, guest, place / f"s{len(made)}{kind}{guest.name}", *options)))
        made[-1][1].slide_in()
        return made[-1]

    yield make
    for guest, disk in made:
        guest.remove()
        disk.end()


def writes(guest):
    """How many requests the guest's disk has written; libvirt's own figure."""
    return int(guest.host.virsh("domblkstat", guest.name, "vda").split("wr_req ")[1].split()[0])


def wait_writes(guest, count=100):
    before = writes(guest)
    lab.wait_until(f"{count} writes", lambda: writes(guest) >= before + count)


def digest(disk):
    """Of the whole disk, as the export has it. The guest must not write."""
    out = disk.folder / "copy"
    disk.host.run("qemu-img", "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///?socket={disk.socket}", out)
    return hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_in_and_out(under, kind):
    guest, disk = under(kind)
    wait_writes(guest)
    guest.assert_whole()
    name = guest.name
    assert str(guest.disk) in guest.host.virsh("domblklist", name), "libvirt's view"
    assert guest.host.virsh("domblkerror", name) == "No errors found"
    guest.host.virsh("suspend", name)
    guest.host.virsh("resume", name)
    wait_writes(guest)
    disk.take_out()
    wait_writes(guest)
    guest.assert_whole()
    assert disk.find()[1]["node-name"] == disk.node
    # What libvirt could not do meanwhile, it can do again.
    guest.host.virsh("blockcopy", name, "vda", guest.folder / "copy", "--wait", "--transient-job", "--pivot", "--timeout", "60")
    guest.assert_whole()
    guest.host.virsh("destroy", name)
    if kind == "qcow2":
        subprocess.run(["qemu-img", "check", guest.disk], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_killed_under_load(under, kind):
    guest, disk = under(kind)
    for _ in range(10):
        wait_writes(guest, 20)
        disk.mark()
        disk.kill()
    wait_writes(guest)
    guest.assert_whole()
    assert guest.host.virsh("domblkerror", guest.name) == "No errors found"
    assert len(disk.marks()) == 10
    disk.take_out()
    guest.assert_whole()


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_let_run_half_way_waits_for_its_disk(under, kind):
    """Whoever slid it under died after each step, and somebody resumed the guest."""
    guest, disk = under(kind)
    disk.take_out()
    inserted = disk.find()[1]
    disk.serve("--size", str(disk.size), *disk._start_below(inserted))
    server = {"type": "unix", "path": str(disk.socket)}
    disk.qmp("blockdev-add", driver="nbd", node_name=slide.NODE, server=server, reconnect_delay=60)
    disk.qmp("stop")
    disk._give(slide.NODE)
    disk.qmp("cont")
    if kind == "qcow2":  # a raw node that no device uses has nothing to write out, and holds no lock
        with pytest.raises(RuntimeError, match="lock"):
            disk._open_below(inserted)
    disk.kill()
    disk.qmp("blockdev-set-active", node_name=disk.node, active=False)
    disk.kill()
    disk._open_below(inserted)
    disk.ask("open")
    wait_writes(guest)
    guest.assert_whole()
    disk.kill()
    wait_writes(guest)
    disk.take_out()
    guest.assert_whole()


def test_back_and_forth(under):
    guest, disk = under("qcow2")
    guest.host.virsh("suspend", guest.name)
    first, before = disk.mark(), digest(disk)
    guest.host.virsh("resume", guest.name)
    wait_writes(guest)
    guest.host.virsh("suspend", guest.name)
    second, after = disk.mark(), digest(disk)
    assert before != after
    for _ in range(3):
        disk.ask("rollback", first)
        assert digest(disk) == before
        disk.kill()
        assert digest(disk) == before
        disk.ask("rollback", second)
        assert digest(disk) == after
    guest.host.virsh("resume", guest.name)
    guest.assert_whole()


def test_full_log_stops_the_guest_and_loses_nothing(under):
    guest, disk = under("raw", "--log-max-mib", "512")
    with pytest.raises(RuntimeError, match="No space left"):
        while True:  # beside the guest, in a part of the disk that it does not use
            disk.io("write -P 7 32M 16M")
            disk.mark()
    lab.wait_until("the guest to be stopped", lambda: guest.host.virsh("domstate", "--reason", guest.name) == "paused (I/O error)")
    disk.ask("drop", *disk.marks())
    guest.host.virsh("resume", guest.name)
    wait_writes(guest)
    guest.assert_whole()
    disk.io("read -P 7 32M 16M")


def test_image_is_not_opened_by_others(under):
    guest, disk = under("raw")
    wrong = subprocess.run(["qemu-io", "-f", "raw", "-c", "read 0 4k", guest.disk], capture_output=True, text=True)
    assert 'Failed to get "write" lock' in wrong.stdout + wrong.stderr
    disk.take_out()


def test_libvirt_restarts_meanwhile(under):
    guest, disk = under("qcow2")
    for action in ("stop", "start"):
        guest.host.drive("daemon", 1, "libvirtd", action)
    lab.wait_until("libvirt", lambda: guest.state == "running")
    guest.assert_whole()
    disk.take_out()
    guest.assert_whole()
