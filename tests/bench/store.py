"""What the page store costs and saves, on the memory of real guests.

usage: tests/bench/run store [--checkpoints N] [--ram MIB] [--keep FOLDER]

Four small guests run under TCG, one after the other, each busy with something else: with nothing, with text (awk, sort),
with archives (tar, gzip, sha256sum), with small random updates of files in memory. While each of them runs, it is stopped every
0.25 s and the pages of its RAM that changed are recorded; the first record is all of RAM that is not zeros. The store gets these
records, one store a guest. Peers on the same records: memcpy, zstd -1, one copy of each content (sharing), sharing with zstd,
and borgbackup (a repository a guest, chunks of one page, zstd -1), which gets each record as a file.
The figures of many checkpoints (open, remove) are of made pages.
"""

import argparse
import array
import json
import mmap
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from common import line

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = 4096
EVERY_S = 0.25
MIB = 1 << 20

WORKLOADS = {
    "idle": "while :; do sleep 1; done",
    "text": """
i=0; while [ $i -lt 20000 ]; do echo "$i host$((i % 37)) GET /index/$((i * 7919 % 1000)) 200 $((i % 4096))"; i=$((i + 1)); done > /tmp/log
while :; do
    sort -k3 /tmp/log > /tmp/sorted
    awk '{ n[$2] += $5 } END { for (h in n) print h, n[h] }' /tmp/sorted > /tmp/sums
    uniq -c /tmp/sums > /tmp/counts
    tail -n 19000 /tmp/log > /tmp/rest; head -n 1000 /tmp/sorted >> /tmp/rest; mv /tmp/rest /tmp/log
done""",
    "archives": """
cp -r /bin/busybox /tmp/a
while :; do
    tar cf /tmp/a.tar /tmp/a; gzip -kf /tmp/a.tar; sha256sum /tmp/a.tar.gz >> /tmp/sums; gunzip -c /tmp/a.tar.gz > /tmp/b.tar
done""",
    "updates": """
dd if=/dev/urandom of=/tmp/table bs=1M count=16 2>/dev/null
while :; do
    i=0; while [ $i -lt 20 ]; do
        echo "row $RANDOM $(date)" | dd of=/tmp/table bs=256 seek=$(((RANDOM * 2 + i) % 65536)) count=1 conv=notrunc,sync 2>/dev/null
        i=$((i + 1))
    done
    echo "commit $(date)" >> /tmp/journal
done""",
}

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t tmpfs tmp /tmp
echo "BENCH: up"
{workload}
"""


class Guest:
    """QEMU with its RAM in a file, stopped and continued over QMP."""

    def __init__(self, folder, kernel, workload, ram_mib):
        self.ram = folder / "ram"
        root = folder / "root"
        for name in ("bin", "proc", "tmp", "dev"):
            (root / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        init = root / "init"
        init.write_text(INIT.format(workload=workload))
        init.chmod(0o755)
        initrd = folder / "initrd"
        names = "\n".join(str(p.relative_to(root)) for p in root.rglob("*"))
        with open(initrd, "wb") as out:
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), stdout=out, cwd=root, check=True)
        console, monitor = folder / "console", folder / "qmp"
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-nographic", "-machine", "pc,accel=tcg,memory-backend=ram", "-m", str(ram_mib)]
            + ["-object", f"memory-backend-file,id=ram,size={ram_mib}M,mem-path={self.ram},share=on"]
            + ["-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet no_timer_check rdinit=/init"]
            + ["-serial", f"file:{console}", "-qmp", f"unix:{monitor},server=on,wait=off"]
        )
        try:
            self._wait(monitor.exists)
            self.monitor = socket.socket(socket.AF_UNIX)
            self.monitor.connect(str(monitor))
            self.lines = self.monitor.makefile("r")
            self.lines.readline()
            self.call("qmp_capabilities")
            self._wait(lambda: "BENCH: up" in console.read_text(errors="replace"))
        except BaseException:
            self.end()
            raise

    def _wait(self, condition):
        deadline = time.monotonic() + 120
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the guest did not come up")
            time.sleep(0.05)

    def call(self, command):
        self.monitor.sendall(json.dumps({"execute": command}).encode())
        while "return" not in (reply := json.loads(self.lines.readline())):
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']}")

    def end(self):
        self.process.kill()
        self.process.wait()


def record(guest, path, checkpoints):
    """The stream that load_bench.cpp reads; returns the folder of its records for other peers."""
    with open(guest.ram, "rb") as file, open(path, "wb") as out:
        ram = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        before = bytes(len(ram))
        for _ in range(checkpoints):
            time.sleep(EVERY_S)
            guest.call("stop")
            now = ram[:]
            guest.call("cont")
            changed = [at for at in range(0, len(now), PAGE) if now[at : at + PAGE] != before[at : at + PAGE]]
            out.write(len(changed).to_bytes(4, "little"))
            out.write(array.array("I", [at // PAGE for at in changed]).tobytes())
            for at in changed:
                out.write(now[at : at + PAGE])
            before = now


def borg(folder, streams):
    """Bytes of borg repositories with each record as a file; None where there is no borg."""
    if shutil.which("borg") is None:
        return None
    total = 0
    env = {**os.environ, "BORG_BASE_DIR": str(folder / "borg-base"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    for stream in streams:
        repository, records = folder / f"{stream.name}.borg", folder / f"{stream.name}.records"
        records.mkdir()
        with open(stream, "rb") as source:
            index = 0
            while header := source.read(4):
                count = int.from_bytes(header, "little")
                source.seek(4 * count, os.SEEK_CUR)
                (records / f"{index:05}").write_bytes(source.read(count * PAGE))
                index += 1
        subprocess.run(["borg", "init", "-e", "none", repository], env=env, check=True)
        create = ["borg", "create", "-C", "zstd,1", "--chunker-params", f"fixed,{PAGE}", f"{repository}::all", "."]
        subprocess.run(create, cwd=records, env=env, check=True)
        total += sum(p.stat().st_size for p in repository.rglob("*") if p.is_file())
        shutil.rmtree(records)
    return total


def streams_of(folder, options):
    images = folder / "images"
    subprocess.run([TOP / "devstack/guest/build", images], check=True, stdout=sys.stderr)
    out = []
    for name, workload in WORKLOADS.items():
        place = folder / name
        place.mkdir()
        guest = Guest(place, images / "vmlinuz", workload, options.ram)
        try:
            stream = folder / f"{name}.stream"
            record(guest, stream, options.checkpoints)
            out.append(stream)
        finally:
            guest.end()
        shutil.rmtree(place)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=100, help="of each guest (100)")
    parser.add_argument("--ram", type=int, default=128, help="MiB of each guest (128)")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the recorded streams, used again when they are there")
    options = parser.parse_args()
    configure = ["cmake", "--preset", "release"]
    build = ["cmake", "--build", "build/release", "--parallel", "2", "--target", "store_load_bench"]
    for command in (configure, build):
        subprocess.run(command, cwd=TOP, check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="mhv-bench-", dir="/var/tmp") as name:
        folder = pathlib.Path(name)
        streams = sorted(options.keep.glob("*.stream")) if options.keep else []
        if not streams:
            streams = streams_of(folder, options)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                streams = [pathlib.Path(shutil.copy(stream, options.keep)) for stream in streams]
        program = TOP / "build/release/cpp/store/store_load_bench"
        subprocess.run([program, folder, *streams], check=True)
        changed = sum(s.stat().st_size for s in streams)  # with four bytes for each page's number
        if (stored := borg(folder, streams)) is not None:
            line("peer.borg_zstd1.saved_fraction", 1 - stored / changed, "of changed pages")


if __name__ == "__main__":
    main()
