"""What a checkpoint costs a real guest, against the floor of the same run.

usage: tests/bench/run checkpoint [--ram MIB] [--epochs N] [--pages N] [--seconds S]

The guest has the devices that the Nova driver gives a server with frequent checkpoints. The floor of a pause is what no
checkpoint of stock QEMU can go below: stop, device state, cont, and nothing else, through a second monitor of the same
guest, in turn with the checkpoints. What checkpoints cost the guest is counted by itself, in units of its own work
per second of the host's clock.
"""

import argparse
import os
import pathlib
import statistics
import time

from common import Guest, Monitor, Pauses, VcpuTime, lab, line, p, real_host, stops, work_per_s

EPOCH_S = 0.25
LOADS = ("compile", "redis", "idle")
# Of the time beside checkpoints. off_cpu: the processor of the guest does not run, for it is stopped, waits for QEMU's lock, or
# has nothing to do; waiting: it could, and the host has no core for it; fault: the kernel's time for one page fault.
PARTS = (
    ("rate", "Hz", 40),
    ("pause_ms", "ms", None),
    ("dirty_pages", "pages", None),
    ("off_cpu_ms", "ms/checkpoint", None),
    ("waiting_ms", "ms/checkpoint", None),
    ("fault_us", "us", None),
)


def number(checkpoint, key):
    return int(checkpoint.get(key, 0))


class Bench:
    def __init__(self, host, images, folder):
        self.host, self.images, self.folder = host, images, folder
        self.engine = lab.Engine(host)

    def guest(self, ram_mib, mib, kind="lean"):
        return Guest(self.host, self.images, self.folder / "guests", kind, mib=mib, ram_mib=ram_mib)

    def epochs(self, guest, count, epoch_s=EPOCH_S):
        """`count` checkpoints and floor pauses in turn, half of `epoch_s` apart: (checkpoints, floors in ms)."""
        made, floors = [], []
        monitor = Monitor(self.host, guest.monitor)
        pause = Pauses(monitor)
        for _ in range(count):
            time.sleep(epoch_s / 2)
            floors.append(pause.take_ms())
            time.sleep(epoch_s / 2)
            made.append(self.engine.create(guest.name))
            if len(made) % 20 == 0:  # internal snapshots of the disk grow slower with their number
                for old in made[-20:-1]:
                    self.engine.delete(guest.name, old["id"])
        pause.close()
        monitor.close()
        return made, floors

    def pauses(self, ram_mib, options):
        """The report of an incremental checkpoint; returns the median pause in ms."""
        guest = self.guest(ram_mib, 64).start()
        try:
            self.engine.attach(guest.name)
            started = time.perf_counter()
            first = self.engine.create(guest.name)
            full_s = time.perf_counter() - started
            guest.ask(f"rate {int(options.pages / EPOCH_S)}")
            yield first, full_s
            made, floors = self.epochs(guest, options.epochs)
            yield made, [number(c, "pause_us") / 1000 for c in made], floors
            yield guest
        finally:
            guest.remove()

    def growth(self, options):
        """Pause with 16,000 dirty pages an epoch against that with 100."""
        guest = self.guest(512, 256).start()
        try:
            self.engine.attach(guest.name)
            self.engine.create(guest.name)
            medians, pages = [], []
            for rate, epoch_s, count in ((400, 0.25, options.epochs // 2), (8000, 2.2, options.epochs // 5)):
                guest.ask(f"rate {rate}")
                time.sleep(epoch_s)
                made, _ = self.epochs(guest, count, epoch_s)
                medians.append(p([number(c, "pause_us") / 1000 for c in made], 50))
                pages.append(p([number(c, "pages") for c in made], 50))
            line("checkpoint.pause_growth", medians[1], "ms", medians[0])
            line("checkpoint.pause_growth.dirty_pages", pages[1], "pages", pages[0])
        finally:
            guest.remove()

    def scan_growth(self, options):
        """Pauses of 8 GiB against 0.5 GiB, all of it touched, when the guest writes to the same 64 MiB."""
        pauses, cpu = [], []
        for ram_mib in (512, 8192):
            guest = self.guest(ram_mib, 64, "touched").start()
            try:
                self.engine.attach(guest.name)
                self.engine.create(guest.name)
                guest.ask(f"rate {int(options.pages / EPOCH_S)}")
                before = self.worker_ms(guest)
                made, _ = self.epochs(guest, options.epochs)
                cpu.append((self.worker_ms(guest) - before) / options.epochs)
                pauses.append(p([number(c, "pause_us") / 1000 for c in made], 50))
            finally:
                guest.remove()
        line("checkpoint.scan_growth", pauses[1], "ms", pauses[0])
        line("checkpoint.scan_growth.cpu_ms", cpu[1], "ms", cpu[0])

    def worker_ms(self, guest):
        """Processor time of the guest's worker so far."""
        stat = pathlib.Path(f"/proc/{self.engine.status(guest.name)['worker_pid']}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    def slowdown(self, options):
        """The guest's own work a second, without over with 40 checkpoints a second, in turns: the host's speed changes too.

        Beside it what 40 stops a second of stock QEMU with the device state cost the guest: no checkpoint can go below.
        """
        guest = self.guest(512, 16).start()
        try:
            for quiet in ("rate 0", "disk-rate 0", "verify 0"):
                guest.ask(quiet)
            medians = []
            for load in LOADS:
                guest.ask(load, port=7001)
                time.sleep(2)
                slower, beside = {self.with_checkpoints: [], self.with_stops: []}, []
                before = work_per_s(guest, options.seconds)
                for _ in range(options.turns):
                    for how, ratios in slower.items():
                        beside.append(how(guest, options.seconds))
                        after = work_per_s(guest, options.seconds)
                        ratios.append((before + after) / 2 / beside[-1]["work"])
                        before = after
                ours, stock = map(statistics.median, slower.values())
                medians.append(ours)
                line(f"checkpoint.slowdown_40hz.{load}", ours, "without/with", 1)
                line(f"checkpoint.slowdown_40hz.{load}.stops_alone", stock, "without/with", 1)
                for what, unit, floor in PARTS:
                    values = [turn[what] for turn in beside if what in turn]
                    line(f"checkpoint.slowdown_40hz.{load}.{what}", statistics.median(values), unit, floor)
            line("checkpoint.slowdown_40hz", statistics.median(medians), "without/with", 1)
        finally:
            guest.remove()

    def with_stops(self, guest, seconds):
        """The guest's work beside the floor of a pause, 40 times a second."""
        with stops(self.host, guest, 0.025):
            return {"work": work_per_s(guest, seconds)}

    def with_checkpoints(self, guest, seconds):
        """The guest's work beside checkpoints, and what they cost it: PARTS, each a second or a checkpoint."""
        self.engine.attach(guest.name, "--interval", "0.025", "--overhead-max", "100", "--keep", "20")
        lab.wait_until("the first checkpoints", lambda: number(self.engine.status(guest.name), "epoch") >= 20)
        began, epoch, vcpu = time.perf_counter(), number(self.engine.status(guest.name), "epoch"), VcpuTime(guest)
        work = work_per_s(guest, seconds)
        epochs = number(self.engine.status(guest.name), "epoch") - epoch
        off, waiting, kernel, faults = vcpu.since()
        took = time.perf_counter() - began
        made = self.engine.list(guest.name)
        self.engine.forget(guest.name)
        return {
            "work": work,
            "rate": epochs / took,
            "pause_ms": statistics.median(number(c, "pause_us") for c in made) / 1000,
            "dirty_pages": statistics.median(number(c, "pages") for c in made),
            "off_cpu_ms": off * 1000 / epochs,
            "waiting_ms": waiting * 1000 / epochs,
            "fault_us": kernel * 1e6 / max(faults, 1),
        }

    def peers(self, guest, first, full_s, pause_ms):
        """QEMU's own ways to save this guest; it is of no further use afterwards."""
        saved_ms = self.virsh_save(guest)
        line("checkpoint.full_vs_qemu.time_ms", full_s * 1000, "ms", saved_ms)
        line("checkpoint.full_vs_qemu.pause_ms", number(first, "pause_us") / 1000, "ms", saved_ms)
        monitor = Monitor(self.host, guest.monitor)
        before = time.perf_counter()
        text = monitor.call("human-monitor-command", **{"command-line": "savevm bench"})
        assert not text, text
        line("checkpoint.vs_qemu.savevm_pause_ms", pause_ms, "ms", (time.perf_counter() - before) * 1000)
        line("checkpoint.vs_qemu.mapped_ram_pause_ms", pause_ms, "ms", self.mapped_ram(monitor))

    def mapped_ram(self, monitor):
        """Downtime in ms of a migration to a file with mapped-ram."""
        capabilities = [{"capability": name, "state": True} for name in ("mapped-ram", "multifd")]
        monitor.call("migrate-set-capabilities", capabilities=capabilities)
        target = self.folder / "guests/mapped"
        target.touch()
        target.chmod(0o666)
        monitor.call("migrate", uri=f"file:{target}")
        state = lab.wait_until("the migration to end", lambda: self._migrated(monitor))
        target.unlink()
        return number(state, "downtime")

    @staticmethod
    def _migrated(monitor):
        state = monitor.call("query-migrate")
        assert state["status"] != "failed", state
        return state if state["status"] == "completed" else None

    def virsh_save(self, guest):
        """Milliseconds for which `virsh save` stops the guest: all of it, for the guest does not come back by itself."""
        file = self.folder / "peer.save"
        before = time.perf_counter()
        self.host.virsh("save", guest.name, file)
        took = (time.perf_counter() - before) * 1000
        self.host.virsh("restore", file)
        file.unlink()
        return took


def report(bench, options):
    run = bench.pauses(options.ram, options)
    first, full_s = next(run)
    made, pauses, floors = next(run)
    median = p(pauses, 50)
    line("checkpoint.pause_ms_p50", median, "ms", p(floors, 50))
    line("checkpoint.pause_ms_p99", p(pauses, 99), "ms", p(floors, 99))
    line("checkpoint.dirty_pages_p50", p([number(c, "pages") for c in made], 50), "pages")
    stored = sum(number(c, "ram_stored_bytes") for c in made)
    line("checkpoint.bytes_per_dirty_page", stored / max(1, sum(number(c, "pages") for c in made)), "bytes", 4096)
    bench.peers(next(run), first, full_s, median)
    next(run, None)

    run = bench.pauses(options.ram * 4, options)
    next(run)
    _, larger, floors = next(run)
    line("checkpoint.pause_ms_p50_with_4x_ram", p(larger, 50), "ms", p(floors, 50))
    line("checkpoint.pause_growth_with_untouched_ram", p(larger, 50), "ms", median)
    run.close()

    bench.growth(options)
    bench.scan_growth(options)
    bench.slowdown(options)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ram", type=int, default=512, help="MiB of the guest (512); measured again with four times as much")
    parser.add_argument("--epochs", type=int, default=100, help="incremental checkpoints (100)")
    parser.add_argument("--pages", type=int, default=1000, help="pages rewritten an epoch (1000)")
    parser.add_argument("--seconds", type=float, default=6, help="of a guest's work, with and without checkpoints (6)")
    parser.add_argument("--turns", type=int, default=4, help="of both (4)")
    parser.add_argument("--only", choices=["slowdown", "growth", "scan_growth"], help="this part alone")
    options = parser.parse_args()
    with real_host() as (host, images, folder):
        bench = Bench(host, images, folder)
        getattr(bench, options.only)(options) if options.only else report(bench, options)


if __name__ == "__main__":
    main()
