"""What goes wrong says so, with the next step, and leaves everything else as it was."""

import contextlib
import pathlib
import subprocess
import sys
import threading
import time
import uuid

import lab
import pytest

NOBODY = str(uuid.UUID(int=7))


def refusal(code, *words):
    """Expects an EngineError of `code` whose text has all of `words`, and a hint that says what to do."""

    @contextlib.contextmanager
    def expect():
        with pytest.raises(lab.EngineError) as caught:
            yield caught
        error = caught.value
        assert error.code == code, error
        assert error.status != 0
        text = f"{error.message} {error.hint}".lower()
        for word in words:
            assert word.lower() in text, error
        assert error.hint, f"no next step: {error}"

    return expect()


@contextlib.contextmanager
def mounted(host, *mount):
    host.run("mount", *mount)
    try:
        yield
    finally:
        host.run("umount", "-l", mount[-1], check=False)


@contextlib.contextmanager
def small_store(host, guest):
    """The guest's store on a file system of its own, whose size is set by remounting."""
    folder = store(host, guest)
    host.run("mkdir", "-p", folder)
    with mounted(host, "-t", "tmpfs", "-o", "size=512m,mode=0700,uid=nova-mhv,gid=nova-mhv", "mhv-test", folder):
        yield folder
    host.run("rmdir", folder)


def store(host, guest):
    return f"/var/lib/nova-mhv/guests/{guest.uuid}"


# ---------------------------------------------------------------- requests


def test_unknown_service(make_guest, engine):
    guest = make_guest(start=False)
    guest.define()
    with refusal("invalid", "warp", "checkpoint"):
        engine.call("attach", guest.name, "--service", "warp")
    assert engine.status(guest.name) is None


def test_unknown_guest(engine):
    for name in ("no-such-guest", NOBODY):
        with refusal("not-found", name):
            engine.call("attach", name)
    with refusal("not-found", "no-such-guest"):
        engine.create("no-such-guest")


def test_attach_twice(shared, engine):
    with refusal("exists", "attached"):
        engine.call("attach", shared.name)
    assert engine.status(shared.name)["state"] == "attached"


@pytest.mark.parametrize("bad", [["--interval-s", "-1"], ["--keep", "-5"], ["--disks", "perhaps"], ["--interval-s", "soon"]])
def test_senseless_options(shared, engine, bad):
    with pytest.raises(lab.EngineError) as caught:
        engine.call("attach", shared.name, *bad)
    assert bad[0].strip("-").split("-")[0] in str(caught.value) or bad[1] in str(caught.value)


def test_foreign_and_deleted_ids(shared, make_guest, engine):
    other = make_guest()
    engine.attach(other.name)
    foreign = engine.create(other.name)["id"]
    deleted = engine.create(shared.name)["id"]
    engine.delete(shared.name, deleted)
    for wrong in (foreign, deleted, NOBODY):
        for action in (engine.show, engine.restore, engine.delete):
            with refusal("not-found", wrong):
                action(shared.name, wrong)
    with refusal("invalid", "../../etc"):
        engine.show(shared.name, "../../etc/passwd")
    assert [c["id"] for c in engine.list(other.name)] == [foreign]
    shared.assert_whole()


def test_export_onto_an_existing_file(shared, engine):
    point = engine.create(shared.name)
    precious = shared.folder / "precious"
    precious.write_text("do not touch")
    with refusal("exists", str(precious)):
        engine.export(shared.name, point["id"], precious)
    assert precious.read_text() == "do not touch"
    with pytest.raises(lab.EngineError):
        engine.export(shared.name, NOBODY, shared.folder / "nothing")
    assert not (shared.folder / "nothing").exists(), "a failed export leaves no file"


def test_a_long_name(shared, engine):
    with pytest.raises(lab.EngineError) as caught:
        engine.create(shared.name, "n" * 5000)
    assert caught.value.code == "invalid"


def test_mhvd_does_not_run(host, tmp_path):
    done = host.run(host.bin / "mhvctl", "--run-dir", tmp_path, "status", check=False)
    assert done.returncode != 0
    assert "mhvd" in done.stderr
    assert str(tmp_path) in done.stderr


def test_strangers_are_turned_away(host, shared):
    """Neither mhvd nor the broker serves a user who is not of nova-mhv."""
    done = host.run("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", host.bin / "mhvctl", "status", check=False)
    assert done.returncode != 0
    assert "permission" in (done.stdout + done.stderr).lower()


def test_rubbish_on_the_socket(host, shared, engine):
    script = (
        "import socket\n"
        "for junk in (b'\\0' * 64, b'\\xff' * 4096, b'GET / HTTP/1.0\\r\\n\\r\\n', b'', b'\\xff\\xff\\xff\\x7f'):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect('/run/nova-mhv/mhvd.sock'); s.settimeout(5)\n"
        "    s.sendall(junk); s.shutdown(1)\n"
        "    try: s.recv(4096)\n"
        "    except OSError: pass\n"
    )
    before = host.daemon_pid("mhvd")
    host.run("python3", "-c", script)
    assert engine.status(shared.name)["state"] == "attached"
    assert host.daemon_pid("mhvd") == before


# ---------------------------------------------------------------- guests that cannot be served


def test_raw_disk(make_guest, engine):
    guest = make_guest("raw")
    with refusal("unsupported", "vda", "raw", "best-effort"):
        engine.call("attach", guest.name, "--disks", "required")
    guest.assert_whole()
    engine.attach(guest.name, "--disks", "best-effort")
    point = engine.create(guest.name)
    (disk,) = [d for d in point["disks"] if d["target"] == "vda"]
    assert not disk.get("snapshot")
    assert "raw" in disk["note"]
    guest.assert_whole()


REFUSED = {
    "vhost-user": (
        "<interface type='vhostuser'><mac address='52:54:00:55:01:01'/>"
        "<source type='unix' path='/run/libvirt/none.sock' mode='client'/><model type='virtio'/></interface>",
        ("vhost",),
    ),
    "hostdev": (
        "<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0' bus='0' slot='31' function='0'/></source></hostdev>",
        ("host",),
    ),
    "hugepages": ("", ("huge",)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_devices_that_write_unseen(what, make_guest, engine, host):
    """Refused by what the definition says, before the guest is ever started with them."""
    element, words = REFUSED[what]
    guest = make_guest(start=False)
    xml = guest.xml().replace("</devices>", element + "</devices>")
    if what == "hugepages":
        xml = xml.replace("<memoryBacking>", "<memoryBacking><hugepages/>")
    (guest.folder / "domain.xml").write_text(xml)
    host.virsh("define", guest.folder / "domain.xml")
    with refusal("unsupported", *words):
        engine.call("attach", guest.name)
    assert engine.status(guest.name) is None


def test_no_userfaultfd(make_guest, engine, host):
    guest = make_guest()
    with mounted(host, "--bind", "/dev/null", "/dev/userfaultfd"):
        service = {c["service"]: c for c in engine.call("self-test")["capabilities"]}["checkpoint"]
        assert not service.get("available")
        assert "userfaultfd" in service["reason"]
        with refusal("unsupported", "userfaultfd"):
            engine.call("attach", guest.name)
    guest.assert_whole()
    engine.attach(guest.name)
    assert engine.call("self-test")["capabilities"][0]["available"] is True


@contextlib.contextmanager
def old_kernel(host, engine):
    """mhvd and its workers as on a Linux before 6.7."""
    command = pathlib.Path(f"/proc/{host.daemon_pid('mhvd')}/cmdline").read_text().rstrip("\0").split("\0")
    host.drive("daemon", host.number, "mhvd", "stop")
    with subprocess.Popen(host.command(sys.executable, pathlib.Path(__file__).with_name("old_kernel.py"), *command)) as mhvd:
        try:
            lab.wait_until("mhvd to answer", lambda: host.run(host.bin / "mhvctl", "status", check=False).returncode == 0)
            yield
        finally:
            mhvd.kill()
            mhvd.wait()
            host.drive("daemon", host.number, "mhvd", "start")


def test_old_kernel(make_guest, engine, host):
    guest = make_guest()
    with old_kernel(host, engine):
        service = {c["service"]: c for c in engine.call("self-test")["capabilities"]}["checkpoint"]
        assert not service.get("available")
        assert "Linux 6.7" in service["reason"]
        with refusal("unsupported", "PAGEMAP_SCAN", "Linux 6.7"):
            engine.call("attach", guest.name)
    guest.assert_whole()
    engine.attach(guest.name)
    engine.create(guest.name)


# ---------------------------------------------------------------- in the middle


def test_guest_killed_in_the_middle(guest, engine, host):
    guest.busy(2000)
    kept = engine.create(guest.name, "kept")
    for delay_ms in (0, 60):
        errors = []

        def create(errors=errors):
            try:
                while True:
                    engine.create(guest.name)
            except (lab.EngineError, RuntimeError) as error:
                errors.append(error)

        pid = guest.pid
        thread = threading.Thread(target=create)
        thread.start()
        time.sleep(0.3 + delay_ms / 1000)
        lab.kill(pid)
        thread.join(120)
        assert not thread.is_alive()
        # "invalid": between two of them, when the guest is known to be off.
        assert errors and getattr(errors[0], "code", "") in ("gone", "busy", "unavailable", "invalid"), errors
        engine.wait_state(guest.name, "stopped")
        if delay_ms == 0:
            engine.restore(guest.name, kept["id"])  # libvirt may not have noticed yet
        else:
            assert not engine.verify(guest.name).get("problems")
            lab.wait_until("libvirt to notice", lambda: guest.state == "shut off")
            host.virsh("start", guest.name)
        guest.wait_answer()
        engine.wait_state(guest.name, "attached")
    guest.set("here", "again")
    for checkpoint in engine.list(guest.name):
        assert checkpoint["state"] == "available"
    engine.restore(guest.name, kept["id"])
    guest.assert_whole()


def test_disk_full(make_guest, engine, host):
    guest = make_guest()
    with small_store(host, guest) as folder:
        engine.attach(guest.name)
        fingerprint = guest.quiet()
        first = engine.create(guest.name)
        used = int(host.run("du", "-sk", folder).stdout.split()[0])
        host.run("mount", "-o", f"remount,size={used + 2048}k", folder)
        guest.busy(20000, pages=12000)
        before = guest.quiet()
        with refusal("no-space", "space"):
            engine.create(guest.name)
        assert guest.state == "running"
        assert guest.assert_whole()
        assert guest.fingerprint() == before
        assert [c["id"] for c in engine.list(guest.name)] == [first["id"]]
        assert not engine.verify(guest.name).get("problems")
        engine.restore(guest.name, first["id"])  # needs no space
        assert guest.fingerprint() == fingerprint
        guest.busy(20000, pages=12000)
        before = guest.quiet()

        host.run("mount", "-o", "remount,size=512m", folder)
        second = engine.create(guest.name)
        engine.restore(guest.name, first["id"])
        assert guest.fingerprint() == fingerprint
        engine.restore(guest.name, second["id"])
        assert guest.fingerprint() == before
        guest.assert_whole()
        engine.forget(guest.uuid)


# ---------------------------------------------------------------- a damaged store


@pytest.fixture
def kept(make_guest, engine):
    """A guest with two checkpoints, detached: nobody has its store open."""
    guest = make_guest()
    engine.attach(guest.name)
    guest.quiet()
    points = [engine.create(guest.name)]
    guest.busy(5000, pages=1000)
    points.append(engine.create(guest.name))
    engine.call("store", "compact", guest.name)  # damage to what nobody needs any more would harm nobody
    engine.detach(guest.name)
    return guest, points


def damage(host, guest, script):
    host.run("sh", "-ec", f"cd {store(host, guest)}; {script}")


def largest(pattern):
    return f"file=$(ls -S $(find . -name '{pattern}' -type f) | head -n 1)"


def assert_damage_is_named(guest, points, engine):
    """What the check calls damaged is refused by whoever reads it all, the rest is there, and no restore puts back anything else."""
    try:
        engine.attach(guest.name)
    except lab.EngineError as error:  # found when the store was opened
        assert error.code == "corrupt"
        guest.assert_whole()
        return
    found = engine.call("store", "check", guest.name, good=(18,))
    assert found["problems"] and found["damaged"]
    for number, point in enumerate(points):
        file = guest.folder / f"export{number}"
        if point["id"] in found["damaged"]:
            with refusal("corrupt"):
                engine.export(guest.name, point["id"], file)
        else:
            engine.export(guest.name, point["id"], file)
        file.unlink(missing_ok=True)
    for point in points:
        try:
            engine.restore(guest.name, point["id"])  # in place: reads what differs, and may not need what is damaged
        except lab.EngineError as error:
            assert error.code == "corrupt" and point["id"] in found["damaged"], error
        guest.assert_whole()
    assert guest.state == "running"


def test_altered_segment(kept, engine, host):
    guest, points = kept
    # One byte in every MiB, in the middle of records.
    loop = 'for at in $(seq 5000 1048576 $(stat -c %s "$file"))'
    damage(host, guest, f'{largest("*.seg")}; {loop}; do printf X | dd of="$file" bs=1 seek=$at conv=notrunc status=none; done')
    assert_damage_is_named(guest, points, engine)


def test_truncated_segment(kept, engine, host):
    guest, points = kept
    damage(host, guest, f'{largest("*.seg")}; truncate -s $(($(stat -c %s "$file") / 2)) "$file"')
    assert_damage_is_named(guest, points, engine)


def test_altered_catalog(kept, engine, host):
    guest, points = kept
    damage(host, guest, "printf XXXX | dd of=CATALOG bs=1 seek=100 conv=notrunc status=none")  # one of its two copies
    engine.attach(guest.name)
    assert engine.call("store", "check", guest.name, good=(0, 18))["problems"]
    engine.restore(guest.name, points[0]["id"])
    guest.assert_whole()


def test_a_repair_keeps_what_is_whole(kept, engine, host):
    guest, points = kept
    # A root of its own, and then damage to what only the first two stand on: the first segments.
    damage(host, guest, "file=$(ls segments/* | head -n 1); printf XXXXXXXX | dd of=$file bs=1 seek=20000 conv=notrunc status=none")
    engine.attach(guest.name)
    found = engine.call("store", "check", guest.name, good=(18,))
    assert found["problems"]
    repaired = engine.call("store", "repair", guest.name, good=(0, 18))
    assert set(repaired["lost"]) == set(found["damaged"])
    assert repaired["kept"] + len(repaired["lost"]) == len(points)
    assert not engine.call("store", "check", guest.name)["problems"]
    fresh = engine.create(guest.name)
    engine.restore(guest.name, fresh["id"])
    guest.assert_whole()


def test_what_the_store_says_of_itself(make_guest, engine, host):
    guest = make_guest()
    engine.attach(guest.name)
    points = [engine.create(guest.name) for _ in range(3)]
    before = engine.call("store", "stat", guest.name)
    assert before["checkpoints"] == 3 and before["pages"] >= points[0]["pages"]
    assert sum(one["contents"] for one in before["encodings"]) == before["contents"]
    assert 0 < before["saved_fraction"] < 1
    engine.delete(guest.name, points[0]["id"])
    space = engine.call("store", "compact", guest.name)
    assert space["bytes_after"] <= space["bytes_before"]
    assert engine.call("store", "stat", guest.name)["bytes"] == space["bytes_after"]
    engine.restore(guest.name, points[1]["id"])
    guest.assert_whole()
    for name in ("check", "repair", "stat", "compact"):
        assert "DOMAIN" in host.run(host.bin / "mhvctl", "store", name, "--help").stdout


def test_store_of_another_version(kept, engine, host):
    guest, points = kept
    damage(host, guest, 'file=$(find . -name FORMAT); sed -i "s/[0-9][0-9]*$/99/" "$file"')
    with refusal("version", "99"):
        engine.call("attach", guest.name)
    guest.assert_whole()
    damage(host, guest, 'file=$(find . -name FORMAT); sed -i "s/[0-9][0-9]*$/2/" "$file"')
    engine.attach(guest.name)
    assert [c["id"] for c in engine.list(guest.name)] == [c["id"] for c in points]
    engine.restore(guest.name, points[0]["id"])
    guest.assert_whole()


# ---------------------------------------------------------------- the command itself


@pytest.mark.parametrize("args", [[], ["frobnicate"], ["checkpoint"], ["checkpoint", "create"], ["attach", "--no-such-option", "x"]])
def test_wrong_command_lines(host, engine, args):
    done = host.run(host.bin / "mhvctl", *args, check=False)
    assert done.returncode != 0
    assert done.stderr.strip()


@pytest.mark.parametrize("program", ["mhvctl", "mhvd", "mhv-broker", "mhv-worker"])
def test_help(host, engine, program):
    done = subprocess.run([host.bin / program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert program in done.stdout
