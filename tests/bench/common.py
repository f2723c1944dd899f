"""What the benchmarks share: a private host, a guest's own monitor, and lines of results."""

import array
import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "functional"))
import lab  # noqa: E402


def line(name, value, unit, floor=None):
    ratio = None if not floor else round(value / floor, 3)
    floor = floor and round(floor, 3)
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "floor": floor, "ratio": ratio}), flush=True)


def build(*targets):
    """Of this tree, and where they are."""
    subprocess.run(["cmake", "--preset", "release"], cwd=lab.TOP, check=True, stdout=sys.stderr)
    subprocess.run(
        ["cmake", "--build", "build/release", "--parallel", "2", "--target", *targets], cwd=lab.TOP, check=True, stdout=sys.stderr
    )
    return lab.TOP / "build/release/cpp"


def p(values, percent):
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


class Guest(lab.Guest):
    """With a second monitor, for what is measured beside the engine."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.monitor = f"/run/nova-mhv/qmp/{self.uuid}.bench"
        self.arguments = ("-chardev", f"socket,id=bench,path={self.monitor},server=on,wait=off", "-mon", "chardev=bench,mode=control")


class Monitor:
    """A QMP monitor at `path` in the host."""

    def __init__(self, host, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{host.folder}/root{path}")
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.events = []
        self.call("qmp_capabilities")

    def call(self, command, fds=(), **arguments):
        text = json.dumps({"execute": command, "arguments": arguments}).encode()
        self.socket.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        while True:
            reply = json.loads(self.lines.readline())
            if "event" in reply:
                self.events.append(reply)
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']}")
            if "return" in reply:
                return reply["return"]

    def stops_ms(self):
        """How long the guest stood still each time since this was asked last, as QEMU's own events say."""
        self.call("query-status")  # it comes after all events so far
        out, stopped = [], None
        for event in self.events:
            at = event["timestamp"]["seconds"] * 1000 + event["timestamp"]["microseconds"] / 1000
            if event["event"] == "STOP":
                stopped = at
            elif event["event"] == "RESUME" and stopped is not None:
                out.append(at - stopped)
                stopped = None
        self.events.clear()
        return out

    def close(self):
        self.lines.close()
        self.socket.close()


class Pauses:
    """Milliseconds of stop + device state + cont of a guest: what no checkpoint of stock QEMU can go below."""

    def __init__(self, monitor):
        self.monitor = monitor
        self.state = tempfile.TemporaryFile()
        self.writer = open(f"/proc/self/fd/{self.state.fileno()}", "wb")
        self.fdset = monitor.call("add-fd", fds=[self.writer.fileno()], opaque="bench")["fdset-id"]

    def take_ms(self):
        self.writer.seek(0)
        self.writer.truncate()
        before = time.perf_counter()
        self.monitor.call("stop")
        self.monitor.call("xen-save-devices-state", filename=f"/dev/fdset/{self.fdset}", live=False)
        self.monitor.call("cont")
        return (time.perf_counter() - before) * 1000

    def close(self):
        self.monitor.call("remove-fd", **{"fdset-id": self.fdset})
        self.writer.close()
        self.state.close()


@contextlib.contextmanager
def stops(host, guest, every_s):
    """Meanwhile the guest is paused and its device state saved, so often, and nothing else."""
    monitor = Monitor(host, guest.monitor)
    pause = Pauses(monitor)
    over = threading.Event()

    def stop_again_and_again():
        at = time.monotonic()
        while not over.wait(at - time.monotonic()):
            pause.take_ms()
            at = max(at + every_s, time.monotonic())

    thread = threading.Thread(target=stop_again_and_again)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        pause.close()
        monitor.close()


class VcpuTime:
    """How the thread of the guest's only processor spent the time since then."""

    def __init__(self, guest):
        (self.thread,) = (t for t in pathlib.Path(f"/proc/{guest.pid}/task").iterdir() if (t / "comm").read_text().startswith("CPU "))
        self.before = self._now()

    def _now(self):
        """Seconds: of now, on a core, ready to run; in the kernel; and minor faults."""
        ran, waited, _ = map(int, (self.thread / "schedstat").read_text().split())
        stat = (self.thread / "stat").read_text().rsplit(")", 1)[1].split()
        return time.perf_counter(), ran / 1e9, waited / 1e9, int(stat[12]) / os.sysconf("SC_CLK_TCK"), int(stat[7])

    def since(self):
        """(seconds off a core, of them ready to run, in the kernel, faults)"""
        took, ran, waited, kernel, faults = (now - then for now, then in zip(self._now(), self.before, strict=True))
        return took - ran, waited, kernel, faults


def processor_ms(pid):
    """What a process has computed so far, all its threads together."""
    threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6


def work_per_s(guest, seconds):
    """The guest's own work, as its load counts it."""

    def count():
        return int(guest.ask("count", port=7001)), time.perf_counter()

    before, began = count()
    time.sleep(seconds)
    after, ended = count()
    return (after - before) / (ended - began)


@contextlib.contextmanager
def real_host():
    """(host, images, folder): libvirt and the engine of this tree in namespaces of their own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mhv-bench-", dir="/var/tmp") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        host = lab.Host(folder)
        host.drive("build")
        images = folder / "images"
        lab.subprocess.run([lab.TOP / "devstack/guest/build", images], check=True, stdout=lab.subprocess.DEVNULL)
        host.start()
        try:
            yield host, images, folder
        finally:
            host.stop()
