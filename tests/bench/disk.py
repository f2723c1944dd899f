"""What checkpoints cost a guest's disk: its own writes a second, after a checkpoint, beside 40 a second, and without.

usage: tests/bench/run disk [--rounds N] [--seconds S]

The guest overwrites 4 KiB at a time, one after the other and past its page cache, at random places of a second disk of 1 GiB that is
allocated before: "fsync" flushes after each write, "direct" does not (devstack/guest/load.c). It counts the writes itself; they are
divided by seconds of the host's clock. Four ways take turns, `--rounds` times, and their medians are compared: a qcow2 image with
cache=writeback after a checkpoint (its snapshot is there, and QEMU watches what is written), beside 40 checkpoints a second (of which
100 are kept; measured once so many are there), the same guest without, and a guest whose second disk is a raw image with
cache=none. The floor is the better one of the latter two. moments_per_s: the checkpoints that were really taken while the guest
wrote with fsync, of the 40 that were asked for. Standard error has the medians of each way.

Random writes are the worst case: the first one to each cluster of 64 KiB after a snapshot copies the cluster (qcow2), and what was
written soon does not fit beside a snapshot any more, so that there is the next.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from common import lab, line, real_host

DISK_MIB = 1024
RATE = 40
KEEP = 100
LOADS = ("fsync", "direct")


class Guest(lab.Guest):
    """With a second disk, all of it allocated."""

    def __init__(self, host, images, folder, disk_format, cache):
        super().__init__(host, images, folder, "lean", mib=16, ram_mib=512)
        image = self.folder / f"second.{disk_format}"
        create = ["qemu-img", "create", "-q", "-f", disk_format, "-o", "preallocation=full", image, f"{DISK_MIB}M"]
        subprocess.run(create, check=True)
        self.more_disks = (
            f"""
    <disk type='file' device='disk'>
      <driver name='qemu' type='{disk_format}' cache='{cache}'/>
      <source file='{image}'/>
      <target dev='vdb' bus='virtio'/>
    </disk>""",
        )

    def start(self):
        super().start()
        for quiet in ("rate 0", "disk-rate 0", "verify 0"):
            self.ask(quiet)
        return self

    def work(self, load):
        os.sync()  # what the turn before left in the host's page cache
        before, _ = self.writes()
        self.ask(load, port=7001)
        lab.wait_until(f"{load} to write", lambda: self.writes()[0] > before)

    def rest(self):
        self.ask("off", port=7001)

    def writes(self):
        return int(self.ask("count", port=7001)), time.perf_counter()

    def writes_per_s(self, seconds):
        before, began = self.writes()
        time.sleep(seconds)
        after, ended = self.writes()
        return (after - before) / (ended - began)


class Bench:
    def __init__(self, host, images, folder, options):
        self.engine, self.options = lab.Engine(host), options
        self.qcow2 = Guest(host, images, folder / "guests", "qcow2", "writeback")
        self.raw = Guest(host, images, folder / "guests", "raw", "none")

    def epoch(self):
        return int(self.engine.status(self.qcow2.name).get("epoch", 0))

    def alone(self, guest, load):
        """Writes a second."""
        guest.work(load)
        time.sleep(1)
        writes = guest.writes_per_s(self.options.seconds)
        guest.rest()
        return writes

    def after_checkpoint(self, load):
        """Writes a second."""
        self.engine.attach(self.qcow2.name, "--disks", "required")
        self.engine.create(self.qcow2.name)
        writes = self.alone(self.qcow2, load)
        self.engine.forget(self.qcow2.name)
        return writes

    def with_checkpoints(self, load):
        """Writes and checkpoints a second."""
        self.engine.attach(
            self.qcow2.name, "--interval", str(1 / RATE), "--overhead-max", "100", "--keep", str(KEEP), "--disks", "required"
        )
        self.qcow2.work(load)
        lab.wait_until("as many checkpoints as are kept", lambda: self.epoch() > KEEP, 300)
        began, epoch = time.perf_counter(), self.epoch()
        writes = self.qcow2.writes_per_s(self.options.seconds)
        checkpoints = (self.epoch() - epoch) / (time.perf_counter() - began)
        self.qcow2.rest()
        self.engine.forget(self.qcow2.name)
        return writes, checkpoints

    def compare(self, load):
        """The rows of one load; returns the median of checkpoints a second."""
        seen = {"after": [], "checkpoints": [], "qcow2": [], "raw": []}
        rates = []
        for _ in range(self.options.rounds):
            seen["qcow2"].append(self.alone(self.qcow2, load))
            seen["raw"].append(self.alone(self.raw, load))
            seen["after"].append(self.after_checkpoint(load))
            writes, rate = self.with_checkpoints(load)
            seen["checkpoints"].append(writes)
            rates.append(rate)
        medians = {way: statistics.median(values) for way, values in seen.items()}
        rate = statistics.median(rates)
        print(load, {way: round(value) for way, value in medians.items()}, f"{rate:.1f} checkpoints a second", file=sys.stderr)
        peer = max(medians["qcow2"], medians["raw"])
        line(f"disk.{load}_iops", medians["after"], "1/s", peer)
        line(f"disk.{load}_iops_40hz", medians["checkpoints"], "1/s", peer)
        return rate

    def report(self):
        try:
            for guest in (self.qcow2, self.raw):
                guest.start()
            rates = {load: self.compare(load) for load in LOADS}
            line("disk.moments_per_s", rates["fsync"], "1/s", RATE)
        finally:
            for guest in (self.qcow2, self.raw):
                guest.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (5)")
    parser.add_argument("--seconds", type=float, default=5, help="of the guest's writes, a turn (5)")
    options = parser.parse_args()
    with real_host() as (host, images, folder):
        Bench(host, images, folder, options).report()


if __name__ == "__main__":
    main()
