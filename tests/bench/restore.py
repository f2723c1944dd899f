"""How soon a guest is back at a checkpoint, against the floor of the same run.

usage: tests/bench/run restore [--ram MIB,MIB,...] [--rounds N]

first_ms     a guest that is off: the whole command, until it runs. The floor is `virsh start` of the same domain, with empty memory.
fill_ms      from there until all of its memory is there
rollback_ms  a running guest, in place: what it stands still for. The floor is what no rollback of stock QEMU can go below: stop,
             snapshot-load of the device state with the disk's snapshot, and cont, and no page of memory. Nothing writes the disk meanwhile.
"""

import argparse
import subprocess
import time

from common import Monitor, lab, line, p, real_host

ROLLBACK_MIB = 256


def milliseconds(work):
    before = time.perf_counter()
    work()
    return (time.perf_counter() - before) * 1000


def first(host, images, folder, ram_mib, rounds):
    """Guests of `ram_mib`, of which a good part is touched."""
    engine = lab.Engine(host)
    guest = lab.Guest(host, images, folder, mib=min(ram_mib // 2, 2048), ram_mib=ram_mib).start()
    try:
        engine.attach(guest.name)
        point = engine.create(guest.name)
        starts, firsts, fills = [], [], []
        for _ in range(rounds):
            host.virsh("destroy", guest.name)
            engine.wait_state(guest.name, "stopped")
            starts.append(milliseconds(lambda: host.virsh("start", guest.name)))
            engine.wait_state(guest.name, "attached")
            host.virsh("destroy", guest.name)
            engine.wait_state(guest.name, "stopped")
            firsts.append(milliseconds(lambda: engine.restore(guest.name, point["id"])))
            fills.append(milliseconds(lambda: lab.wait_until("its memory", lambda: not engine.status(guest.name).get("filling"), 600)))
            guest.assert_whole()
        line(f"restore.first_ms_{ram_mib}mib", p(firsts, 50), "ms", p(starts, 50))
        line(f"restore.first_over_start_ms_{ram_mib}mib", p(firsts, 50) - p(starts, 50), "ms")
        line(f"restore.fill_ms_{ram_mib}mib", p(fills, 50), "ms")
        line(f"restore.filled_mib_{ram_mib}mib", int(point["pages"]) / 256, "MiB")
    finally:
        guest.remove()


def vmstate_node(host, monitor, folder):
    """A node `floor` whose snapshot `floor` is the device state of this moment; the guest must not run."""
    state, image = folder / "floor.state", folder / "floor.qcow2"
    with open(state, "wb") as writer:
        fdset = monitor.call("add-fd", fds=[writer.fileno()], opaque="floor")["fdset-id"]
        monitor.call("xen-save-devices-state", filename=f"/dev/fdset/{fdset}", live=False)
        monitor.call("remove-fd", **{"fdset-id": fdset})
    machine = next(m for m in monitor.call("query-machines") if m.get("alias") == "pc")["name"].encode()
    saved = state.read_bytes()
    stream = saved[:8] + b"\x07" + len(machine).to_bytes(4, "big") + machine + saved[8:]
    padded = stream.ljust(-(-len(stream) // 65536) * 65536, b"\0")
    state.write_bytes(padded)
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64k"], **quiet)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -b -s {state} 0 {len(padded)}", image], **quiet)
    subprocess.run(["qemu-img", "snapshot", "-c", "floor", image], **quiet)
    with open(image, "r+b") as file:
        file.seek(64)
        table = int.from_bytes(file.read(8), "big")
        file.seek(table + 32)
        file.write(len(stream).to_bytes(4, "big"))
        file.seek(table + 40)
        file.write(len(stream).to_bytes(8, "big"))
    image.chmod(0o666)
    file = {"driver": "file", "filename": str(image)}
    monitor.call("blockdev-add", **{"driver": "qcow2", "node-name": "floor", "file": file})


def floor_rollbacks(host, guest, folder, rounds):
    monitor = Monitor(host, f"/run/nova-mhv/qmp/{guest.uuid}.sock")
    disk = monitor.call("query-block")[0]["inserted"]["node-name"]
    out = []
    for _ in range(rounds):
        time.sleep(0.25)
        stop_ms = milliseconds(lambda: monitor.call("stop"))
        monitor.call("blockdev-snapshot-internal-sync", device=disk, name="floor")
        vmstate_node(host, monitor, folder)
        # As long ago as in a rollback: what making them wrote is on the disk.
        for node in (disk, "floor"):
            monitor.call("human-monitor-command", **{"command-line": f"qemu-io {node} flush"})

        def load():
            job = {"job-id": "floor", "tag": "floor", "vmstate": "floor", "devices": ["floor", disk]}
            monitor.call("snapshot-load", **job)
            while True:
                jobs = monitor.call("query-jobs")
                if jobs[0]["status"] == "concluded":
                    assert "error" not in jobs[0], jobs
                    return
                time.sleep(0.0005)

        load_ms = milliseconds(load)
        monitor.call("job-dismiss", id="floor")
        monitor.call("blockdev-del", **{"node-name": "floor"})
        monitor.call("blockdev-snapshot-delete-internal-sync", device=disk, name="floor")
        out.append(stop_ms + load_ms + milliseconds(lambda: monitor.call("cont")))
    monitor.close()
    guest.assert_whole()
    return out


def rewrite(guest, pages):
    """Pages alone: a disk that was written has to be flushed and reverted, and the floor's was not."""
    before = guest.status()["gen"]
    guest.ask("rate 20000")
    lab.wait_until(f"{pages} pages written", lambda: guest.status()["gen"] >= before + pages)
    guest.ask("rate 0")


def rollbacks(engine, guest, pages, rounds):
    """(pauses in ms, pages put back)."""
    pauses, written = [], []
    for _ in range(rounds):
        guest.quiet()
        made = engine.create(guest.name)
        rewrite(guest, pages)
        done = engine.restore(guest.name, made["id"])
        pauses.append(int(done["pause_us"]) / 1000)
        written.append(int(done["pages_written"]))
        engine.delete(guest.name, made["id"])
    guest.assert_whole()
    return pauses, written


def in_place(host, images, folder, rounds):
    engine = lab.Engine(host)
    guest = lab.Guest(host, images, folder, mib=ROLLBACK_MIB, ram_mib=ROLLBACK_MIB * 2).start()
    try:
        guest.ask("rate 0")
        floors = floor_rollbacks(host, guest, folder, rounds)
        engine.attach(guest.name)
        for pages in (1000, 16000):
            pauses, written = rollbacks(engine, guest, pages, rounds)
            line(f"restore.rollback_ms_{pages}", p(pauses, 50), "ms", p(floors, 50))
            line(f"restore.rollback_pages_{pages}", p(written, 50), "pages")
        engine.detach(guest.name)
    finally:
        guest.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ram", default="512,2048,8192", help="MiB of the guests that are started at a checkpoint")
    parser.add_argument("--rounds", type=int, default=7, help="repetitions; the median counts (7)")
    options = parser.parse_args()
    with real_host() as (host, images, folder):
        in_place(host, images, folder / "guests", options.rounds)
        for ram_mib in map(int, options.ram.split(",")):
            first(host, images, folder / "guests", ram_mib, options.rounds)


if __name__ == "__main__":
    main()
