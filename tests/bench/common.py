"""What the benchmarks share: a private host, a guest's own monitor, and lines of results."""

import array
import contextlib
import json
import pathlib
import socket
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "functional"))
import lab  # noqa: E402


def line(name, value, unit, floor=None):
    ratio = None if not floor else round(value / floor, 3)
    floor = floor and round(floor, 3)
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "floor": floor, "ratio": ratio}), flush=True)


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
        self.call("qmp_capabilities")

    def call(self, command, fds=(), **arguments):
        text = json.dumps({"execute": command, "arguments": arguments}).encode()
        self.socket.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        while True:
            reply = json.loads(self.lines.readline())
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']}")
            if "return" in reply:
                return reply["return"]

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
