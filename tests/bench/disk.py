"""Figures of disk epochs: an epoch journal's export against QEMU's own ways to a disk, on one file system in one run.

Prints one JSON object a line. One tool (qemu-img bench, QEMU's block layer) does 4 KiB writes on all of them: through the
export, on qcow2 with cache=writeback, and on raw with cache=none; all are allocated before. They take turns, `--rounds` times, and
the medians are compared. `floor` is the better of the two peers; for a mark, what a round trip on the control socket costs
alone. fsync: a flush after every write. direct: no flush; one request at a time, and eight.
"""

import argparse
import contextlib
import pathlib
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import uuid

from common import line

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "functional"))
import slide  # noqa: E402

MARK, ROLLBACK, STAT = 1, 2, 5  # of the request's fields, cpp/disk/export/control.proto
STEP = 3215360  # from one write to the next: no two are neighbours
MARKS = 10000
EPOCH_BLOCKS = 36864


class Export:
    """An export of a raw image, and its control socket spoken to directly: mhv-disk's own start would be most of a mark."""

    def __init__(self, folder, image):
        self.folder = folder
        self.uri = f"nbd+unix:///?socket={folder / 'nbd'}"
        programs = slide.programs()
        command = [
            programs / "mhv-disk", "serve", "--socket", folder / "nbd", "--control", folder / "ctl", "--journal", folder / "journal",
            "--base", image, "--plugin", programs / "nbdkit-mhv-plugin.so",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=sys.stderr)
        while not (folder / "ctl").exists():
            if self.process.poll() is not None:
                raise RuntimeError("the export does not start")
            time.sleep(0.05)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(folder / "ctl"))

    def call(self, field, name=None):
        """Microseconds of one request."""
        body = b"" if name is None else b"\x0a\x10" + name
        payload = bytes([field << 3 | 2, len(body)]) + body
        message = struct.pack("<IHHI", 0x3156484D, 1, 0, len(payload)) + payload
        before = time.perf_counter()
        self.socket.sendall(message)
        head = self._receive(12)
        reply = self._receive(struct.unpack("<I", head[8:])[0])
        took = (time.perf_counter() - before) * 1e6
        if reply[:1] == b"\x0a":
            raise RuntimeError(f"request {field} is refused: {reply!r}")
        return took

    def _receive(self, count):
        out = b""
        while len(out) < count:
            more = self.socket.recv(count - len(out))
            if not more:
                raise RuntimeError("the export closed the connection")
            out += more
        return out

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait()


def bench(count, depth, *image, flush=False):
    """Writes a second."""
    more = ["--flush-interval=1"] if flush else []
    command = ["qemu-img", "bench", "-w", "-c", str(count), "-d", str(depth), "-s", "4096", "-S", str(STEP), *more, *map(str, image)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return count / float(re.search(r"in ([0-9.]+) seconds", out).group(1))


def compare(name, ways, rounds, count, depth, flush=False):
    seen = {way: [] for way in ways}
    for _ in range(rounds):
        for way, image in ways.items():
            seen[way].append(bench(count, depth, *image, flush=flush))
    medians = {way: statistics.median(values) for way, values in seen.items()}
    print({way: round(value) for way, value in medians.items()}, file=sys.stderr)
    line(name, medians["export"], "1/s", max(medians["qcow2"], medians["raw"]))


@contextlib.contextmanager
def load(uri):
    command = ["qemu-img", "bench", "-w", "-c", "100000000", "-d", "4", "-s", "4096", "-S", str(STEP), "-f", "raw", uri]
    writer = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        writer.kill()
        writer.wait()


def marks(export, count):
    """p50 of `count` marks, in microseconds, under load."""
    return statistics.median(export.call(MARK, uuid.uuid4().bytes) for _ in range(count))


def rollbacks(export, count):
    took = []
    name = uuid.uuid4().bytes
    export.call(MARK, name)
    for _ in range(count):
        subprocess.run(
            ["qemu-io", "-f", "raw", *(word for i in range(EPOCH_BLOCKS // 4096) for word in ("-c", f"write {i * 16}M 16M")), export.uri],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        took.append(export.call(ROLLBACK, name) / 1000)
    return statistics.median(took)


def report(folder, options):
    size = options.mib << 20
    raw, qcow2, base = folder / "raw", folder / "qcow2", folder / "base"
    for path in (raw, base):
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={options.mib}", "conv=fsync"], check=True, stderr=subprocess.DEVNULL
        )
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, str(size)], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write 0 {size}", "-c", "flush", qcow2], check=True, stdout=subprocess.DEVNULL)
    export = Export(folder, base)
    try:
        ways = {
            "export": ["-f", "raw", export.uri],
            "raw": ["-f", "raw", "-t", "none", "-n", raw],
            "qcow2": ["-f", "qcow2", "-t", "writeback", qcow2],
        }
        compare("disk.fsync_iops", ways, options.rounds, options.writes // 5, 1, flush=True)
        compare("disk.direct_iops", ways, options.rounds, options.writes, 1)
        compare("disk.direct_iops_8", ways, options.rounds, options.writes, 8)
        with load(export.uri):
            trip = statistics.median(export.call(STAT) for _ in range(500))
            line("disk.mark_us", marks(export, 500), "us", trip)
            marks(export, MARKS)
            trip = statistics.median(export.call(STAT) for _ in range(500))
            line("disk.mark_us_after_10000", marks(export, 500), "us", trip)
        compare("disk.direct_iops_after_10000_marks", ways, options.rounds, options.writes, 1)
        line(f"disk.rollback_ms_of_{EPOCH_BLOCKS}_blocks", rollbacks(export, 5), "ms")
    finally:
        export.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the disks (1024)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way to a disk (7)")
    parser.add_argument("--writes", type=int, default=10000, help="writes a turn; a fifth of them with fsync (10000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mhv-bench-", dir="/var/tmp") as name:
        report(pathlib.Path(name), options)


if __name__ == "__main__":
    main()
