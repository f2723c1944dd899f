"""What it costs to look into a guest from outside, and to watch its kernel.

usage: tests/bench/run introspect [--seconds S] [--turns N] [--only looks|calls|slowdown] [--symbols FILE]

A Debian guest of 512 MiB that runs. Its memory is read as a layer reads it (cpp/services/introspection/introspection_bench.cpp and
cpp/services/integrity/integrity_bench.cpp); the floor is the bytes that were read for it, copied by memcpy.
introspect.first_ms            finds the kernel, its symbols and its types, and no profile is given; nothing is in the processor's caches
introspect.processes_us        the list of processes, when such a list was just made; processes_cold_us: with empty caches
introspect.commands_us         the same with their command lines; answer_us: as JSON
introspect.call_ms             mhvctl introspect processes, all of it; the floor is mhvctl status
introspect.first_call_ms       from mhvctl service add to the first list; the peer, with --symbols, is volatility3's linux.pslist of the
                               same memory
integrity.trust_ms             measures the kernel; epoch_ms: looks at everything; idle_epoch_ms: an epoch in which nothing was written;
                               slabs_ms: of that, the walk over 16 MiB of RAM for processes that no list names
integrity.guest_slowdown       the guest's own work a second, without over with integrity, 40 epochs a second, in turns; the floor is 40
                               times a second stop, device state and cont. The median of the loads

FILE are the symbols of the guest's kernel as volatility3 wants them: what dwarf2json makes of the vmlinux in Debian's package
linux-image-VERSION-cloud-amd64-dbg, for the 6.12 of the test guest, with a name that ends in .json. Its first run, which makes lists of
its own, does not count.
"""

import argparse
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

from common import Guest, build, lab, line, real_host, stops, work_per_s

EPOCH_MS = 25
LOADS = ("compile", "redis", "idle")
ROUNDS = 21


def memory_of(guest):
    """The file that the guest's RAM is."""
    for number in pathlib.Path(f"/proc/{guest.pid}/fd").iterdir():
        if "memory-backend-memfd" in os.readlink(number):
            return number
    raise LookupError("QEMU's memory is no memfd")


def registers_of(host, guest):
    """Hexadecimal CR3, CR4, CR0, EFER, and where the interrupt gates are and end."""
    text = host.virsh("qemu-monitor-command", guest.name, "--hmp", "info registers")
    words = dict(re.findall(r"\b(CR[034]|EFER)=([0-9a-f]+)", text))
    return [words["CR3"], words["CR4"], words["CR0"], words["EFER"], *re.search(r"IDT= *([0-9a-f]+) ([0-9a-f]+)", text).groups()]


def bench_looks(host, guest):
    programs, memory, registers = build("introspection_bench", "integrity_bench") / "services", memory_of(guest), registers_of(host, guest)
    subprocess.run([programs / "introspection/introspection_bench", memory, *registers[:2]], check=True)
    subprocess.run([programs / "integrity/integrity_bench", memory, *registers], check=True)


def milliseconds(work):
    before = time.perf_counter()
    work()
    return (time.perf_counter() - before) * 1000


def bench_calls(engine, guest, volatility_ms):
    engine.attach(guest.name, "--service", "checkpoint")

    def look():
        return engine.call("introspect", "processes", guest.name)

    def first():
        engine.call("service", "add", guest.name, "introspection")
        lab.wait_until("an answer", answers)

    def answers():
        try:
            return look()
        except lab.EngineError as error:  # the layer is just being started
            return print(error, file=sys.stderr)

    firsts = []
    for turn in range(ROUNDS // 3):
        if turn:
            engine.call("service", "remove", guest.name, "introspection")
        firsts.append(milliseconds(first))
    line("introspect.first_call_ms", statistics.median(firsts), "ms", volatility_ms)
    calls, floors = [], []
    for _ in range(ROUNDS):
        floors.append(milliseconds(lambda: engine.call("status", guest.name)))
        calls.append(milliseconds(look))
    line("introspect.call_ms", statistics.median(calls), "ms", statistics.median(floors))
    engine.forget(guest.name)


def peer_ms(host, guest, folder, symbols):
    """Of volatility3's list of processes, in a copy of the guest's memory."""
    table, cache = folder / "symbols/linux", folder / "cache"
    table.mkdir(parents=True)
    cache.mkdir()
    shutil.copy(symbols, table)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    subprocess.run([folder / "venv/bin/pip", "install", "-q", "volatility3"], check=True, stdout=sys.stderr)
    host.virsh("suspend", guest.name)
    subprocess.run(["cp", "--sparse=always", memory_of(guest), folder / "memory"], check=True)
    host.virsh("resume", guest.name)
    command = [folder / "venv/bin/vol", "-q", "-s", folder / "symbols", "--cache-path", cache, "-f", folder / "memory"]

    def run():
        done = subprocess.run([*command, "linux.pslist"], capture_output=True, text=True)
        if "kthreadd" not in done.stdout:
            raise RuntimeError(f"volatility3 finds no processes: {done.stdout[-1000:]}{done.stderr[-2000:]}")

    return statistics.median([milliseconds(run) for _ in range(4)][1:])


class Slowdown:
    def __init__(self, host, engine, guest, seconds, turns):
        self.host, self.engine, self.guest, self.seconds, self.turns = host, engine, guest, seconds, turns
        self.rates = []

    def with_stops(self):
        with stops(self.host, self.guest, EPOCH_MS / 1000):
            return work_per_s(self.guest, self.seconds)

    def checks(self):
        try:
            return self.engine.call("layer", "call", self.guest.name, "integrity", "status", "{}")["status"].get("checks", 0)
        except lab.EngineError:  # the layer is just being started
            return 0

    def with_integrity(self):
        self.engine.call("service", "add", self.guest.name, "integrity", "--configure", f'{{"epoch_ms": {EPOCH_MS}}}')
        lab.wait_until("the first checks", lambda: self.checks() >= 20)
        began, checks = time.perf_counter(), self.checks()
        work = work_per_s(self.guest, self.seconds)
        self.rates.append((self.checks() - checks) / (time.perf_counter() - began))
        self.engine.call("service", "remove", self.guest.name, "integrity")
        return work

    def run(self):
        self.engine.attach(self.guest.name, "--service", "checkpoint")
        for quiet in ("rate 0", "disk-rate 0", "verify 0"):
            self.guest.ask(quiet)
        ours, stock = zip(*map(self.run_one, LOADS), strict=True)
        line("integrity.guest_slowdown.hz", statistics.median(self.rates), "Hz", 1000 / EPOCH_MS)
        line("integrity.guest_slowdown", statistics.median(ours), "without/with", statistics.median(stock))

    def run_one(self, load):
        """(without over with integrity, without over with stops)"""
        self.guest.ask(load, port=7001)
        time.sleep(2)
        slower = {self.with_integrity: [], self.with_stops: []}
        before = work_per_s(self.guest, self.seconds)
        for _ in range(self.turns):
            for how, ratios in slower.items():
                work = how()
                after = work_per_s(self.guest, self.seconds)
                ratios.append((before + after) / 2 / work)
                before = after
        ours, stock = map(statistics.median, slower.values())
        line(f"integrity.guest_slowdown.{load}", ours, "without/with", stock)
        return ours, stock


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="of a guest's work, with and without (6)")
    parser.add_argument("--turns", type=int, default=4, help="of both (4)")
    parser.add_argument("--only", choices=["looks", "calls", "slowdown"], help="this part alone")
    parser.add_argument("--symbols", type=pathlib.Path, metavar="FILE", help="of a kernel 6.12, for the peer")
    options = parser.parse_args()
    with real_host() as (host, images, folder):
        if options.symbols:
            subprocess.run([lab.TOP / "devstack/guest/build", images, "6.12"], check=True, stdout=subprocess.DEVNULL)
        engine = lab.Engine(host)
        guest = Guest(host, images, folder / "guests", "lean", mib=64, ram_mib=512).start()
        try:
            parts = {
                "looks": lambda: bench_looks(host, guest),
                "calls": lambda: bench_calls(engine, guest, options.symbols and peer_ms(host, guest, folder, options.symbols)),
                "slowdown": lambda: Slowdown(host, engine, guest, options.seconds, options.turns).run(),
            }
            for name, run in parts.items():
                if options.only in (None, name):
                    run()
        finally:
            guest.remove()


if __name__ == "__main__":
    main()
