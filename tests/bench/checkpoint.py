"""What a checkpoint costs a real guest, against the floor of the same run.

usage: tests/bench/run checkpoint [--ram MIB] [--epochs N] [--pages N]

The guest rewrites about PAGES pages an epoch. The floor is what no checkpoint of stock QEMU can go below, measured on the
same guest under the same load through the same kind of monitor: stop, device state, cont, and nothing else.
"""

import argparse
import tempfile
import time

from common import Monitor, lab, line, p, real_host

EPOCH_S = 0.25


def floor_pauses(host, guest, count):
    """Milliseconds of stop + device state + cont, `count` times at the rate of the epochs."""
    monitor = Monitor(host, guest)
    out = []
    with tempfile.TemporaryFile() as state:
        with open(f"/proc/self/fd/{state.fileno()}", "wb") as writer:
            fdset = monitor.call("add-fd", fds=[writer.fileno()], opaque="floor")["fdset-id"]
            for _ in range(count):
                writer.seek(0)
                writer.truncate()
                time.sleep(EPOCH_S)
                before = time.perf_counter()
                monitor.call("stop")
                monitor.call("xen-save-devices-state", filename=f"/dev/fdset/{fdset}", live=False)
                monitor.call("cont")
                out.append((time.perf_counter() - before) * 1000)
            monitor.call("remove-fd", **{"fdset-id": fdset})
    monitor.close()
    return out


def epochs(engine, guest, count):
    """`count` incremental checkpoints, about EPOCH_S apart."""
    made = []
    for _ in range(count):
        time.sleep(EPOCH_S)
        made.append(engine.create(guest.name))
        if len(made) % 20 == 0:  # internal snapshots of the disk grow slower with their number
            for old in made[-20:-1]:
                engine.delete(guest.name, old["id"])
    return made


def number(checkpoint, key):
    return int(checkpoint.get(key, 0))


def measure(host, images, folder, ram_mib, options):
    """(pauses in ms, their floor in ms, checkpoints) of a guest with `ram_mib` of RAM."""
    engine = lab.Engine(host)
    guest = lab.Guest(host, images, folder, "memfd", mib=64, ram_mib=ram_mib).start()
    try:
        guest.ask(f"rate {int(options.pages / EPOCH_S)}")
        floors = floor_pauses(host, guest, options.epochs // 2)
        engine.attach(guest.name)
        started = time.perf_counter()
        first = engine.create(guest.name)
        full_s = time.perf_counter() - started
        made = epochs(engine, guest, options.epochs)
        yield made, floors
        yield first, full_s
        yield engine, guest
        engine.detach(guest.name)
    finally:
        guest.remove()


def restores(engine, guest, count=10):
    in_place = []
    for _ in range(count):
        made = engine.create(guest.name)
        time.sleep(EPOCH_S)
        in_place.append(number(engine.restore(guest.name, made["id"]), "pause_us") / 1000)
        engine.delete(guest.name, made["id"])
    return in_place


def new_process(host, engine, guest, folder):
    """Milliseconds from an exported checkpoint to a guest that runs in a new QEMU."""
    made = engine.create(guest.name)
    file = folder / "bench.save"
    engine.export(guest.name, made["id"], file)
    host.virsh("destroy", guest.name)
    before = time.perf_counter()
    host.virsh("restore", file)
    return (time.perf_counter() - before) * 1000


def virsh_save(host, guest, folder):
    """Milliseconds for which `virsh save` stops the guest: all of it, for the guest does not come back by itself."""
    file = folder / "peer.save"
    before = time.perf_counter()
    host.virsh("save", guest.name, file)
    took = (time.perf_counter() - before) * 1000
    host.virsh("restore", file)
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ram", type=int, default=512, help="MiB of the guest (512); measured again with four times as much")
    parser.add_argument("--epochs", type=int, default=100, help="incremental checkpoints (100)")
    parser.add_argument("--pages", type=int, default=1000, help="pages rewritten an epoch (1000)")
    options = parser.parse_args()
    with real_host() as (host, images, folder):
        report(host, images, folder, options)


def report(host, images, folder, options):
    run = measure(host, images, folder / "guests", options.ram, options)
    made, floors = next(run)
    pauses = [number(c, "pause_us") / 1000 for c in made]
    line("checkpoint.pause_ms_p50", p(pauses, 50), "ms", p(floors, 50))
    line("checkpoint.pause_ms_p99", p(pauses, 99), "ms", p(floors, 99))
    line("checkpoint.dirty_pages_p50", p([number(c, "pages") for c in made], 50), "pages")
    stored = sum(number(c, "ram_stored_bytes") for c in made)
    line("checkpoint.bytes_per_dirty_page", stored / max(1, sum(number(c, "pages") for c in made)), "bytes", 4096)
    first, full_s = next(run)
    engine, guest = next(run)
    line("restore.rollback_ms", p(restores(engine, guest), 50), "ms")
    saved_ms = virsh_save(host, guest, folder)
    engine.wait_state(guest.name, "attached")
    line("checkpoint.full_vs_qemu.time_ms", full_s * 1000, "ms", saved_ms)
    line("checkpoint.full_vs_qemu.pause_ms", number(first, "pause_us") / 1000, "ms", saved_ms)
    line("restore.ms", new_process(host, engine, guest, folder), "ms")
    next(run, None)

    run = measure(host, images, folder / "guests", options.ram * 4, options)
    made, larger_floors = next(run)
    larger = [number(c, "pause_us") / 1000 for c in made]
    line("checkpoint.pause_ms_p50_with_4x_ram", p(larger, 50), "ms", p(larger_floors, 50))
    line("checkpoint.pause_growth_with_untouched_ram", p(larger, 50), "ms", p(pauses, 50))
    next(run)
    next(run)
    next(run, None)


if __name__ == "__main__":
    main()
