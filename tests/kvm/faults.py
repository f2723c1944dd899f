"""KVM's second-level page faults of a guest between two checkpoints, against the pages that it wrote.

usage: tests/kvm/run --program tests/kvm/faults.py MIB     (tests/bench/run kvm does this, for more than one MIB)

The guest has touched MIB of memory and writes random pages of it; ".reading", it also reads all of it, in turn. Faults are
what KVM counts itself for this virtual machine: the guest touched what KVM had not mapped, or not for that access.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from common import lab, line, p, real_host  # noqa: E402

PAGES = 530  # to be written an epoch
GAP_S = 0.25  # between two checkpoints, which take longer than that here
READ_EPOCHS = 10  # in so many, a reading guest reads all
OTHER_MIB = 128  # of the guest's memory: its kernel and programs
EPOCHS = 20


class Bench:
    def __init__(self, host, guest, mib):
        self.engine, self.guest, self.mib = lab.Engine(host), guest, mib
        self.rate = PAGES  # pages a second
        self.boot = guest.status()["boot"]

    def faults(self):
        (folder,) = pathlib.Path("/sys/kernel/debug/kvm").glob(f"{self.guest.pid}-*")
        return int((folder / "pf_taken").read_text())

    def epochs(self, count):
        """Of each of `count` epochs: faults, pages written, seconds. The guest's rate follows the time that an epoch takes."""
        seen = []
        before, began = self.faults(), time.perf_counter()
        for _ in range(count):
            time.sleep(GAP_S)
            made = self.engine.create(self.guest.name)
            now, ended = self.faults(), time.perf_counter()
            seen.append((now - before, int(made["pages"]), ended - began))
            before, began = now, ended
            self.rate = max(1, round(self.rate * (PAGES / seen[-1][1]) ** 0.5))
            self.guest.ask(f"rate {self.rate}")
        if self.guest.status()["boot"] != self.boot:
            raise RuntimeError(f"{self.guest.name} was reset")
        return zip(*seen, strict=True)

    def measure(self, name, reading):
        self.guest.assert_whole(timeout=120)  # and KVM has mappings of all that it reads
        _, _, seconds = self.epochs(READ_EPOCHS)
        if reading:
            self.guest.ask(f"verify {round(self.mib * 256 / READ_EPOCHS / p(seconds, 50))}")
            self.epochs(READ_EPOCHS)  # now what KVM lost in one epoch is read again in another
        before = self.guest.status()
        faults, pages, seconds = self.epochs(EPOCHS)
        after = self.guest.status()
        line(name, p(faults, 50), "faults", p(pages, 50))
        read = (after["checked"] - before["checked"]) / EPOCHS
        spread = [f"{p(values, 10):.0f} to {p(values, 90):.0f}" for values in (faults, pages)]
        print(f"p10 to p90: {spread[0]} faults, {spread[1]} pages; {read:.0f} read, {p(seconds, 50):.2f} s an epoch", flush=True)

    def run(self):
        for quiet in ("disk-rate 0", "verify 0", f"rate {self.rate}"):
            self.guest.ask(quiet)
        name = f"checkpoint.kvm_faults_per_epoch.{self.mib}"
        self.engine.attach(self.guest.name)
        self.engine.create(self.guest.name)
        self.measure(name, reading=False)
        self.measure(f"{name}.reading", reading=True)
        self.guest.assert_whole(timeout=120)


def main():
    mib = int(sys.argv[1])
    with real_host() as (host, images, folder):
        guest = lab.Guest(host, images, folder / "guests", "lean", mib=mib, ram_mib=mib + OTHER_MIB).start()
        try:
            Bench(host, guest, mib).run()
        except Exception:
            print(f"{guest.name} {guest.fate()}", flush=True)
            raise
        finally:
            guest.remove()


if __name__ == "__main__":
    main()
