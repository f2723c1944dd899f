"""What the benchmarks share: a private host, a guest's own monitor, and lines of results."""

import array
import contextlib
import json
import pathlib
import socket
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "functional"))
import lab  # noqa: E402


def line(name, value, unit, floor=None):
    ratio = None if not floor else round(value / floor, 3)
    floor = floor and round(floor, 3)
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "floor": floor, "ratio": ratio}), flush=True)


def p(values, percent):
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


class Monitor:
    """The guest's own QMP monitor, used directly while no engine is attached."""

    def __init__(self, host, guest):
        path = host.folder / f"root/run/nova-mhv/qmp/{guest.uuid}.sock"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
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
