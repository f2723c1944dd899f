"""An epoch journal slid under a running disk of a stock libvirt guest, and taken out again, by monitor commands alone.

The export is there first, and holds every request until its image is open. Then, while the guest is stopped: the device gets
the export's node, the image's own node is set inactive (QEMU writes its caches out and gives up the image's lock), and the
export opens the image, itself (a raw one) or through qemu-storage-daemon (any other). Out is the reverse. Whoever lets the guest
run in between, it has its disk or waits for it.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import time
import uuid

import lab

USER = "libvirt-qemu"
NODE = "mhv-vda"


def programs():
    """Builds mhv-disk and nbdkit's plugin, and returns their folder."""
    build = lab.TOP / "build/programs"
    if not os.environ.get("MHV_TEST_NO_BUILD"):
        if not (build / "build.ninja").exists():
            subprocess.run(["cmake", "--preset", "programs"], cwd=lab.TOP, check=True, stdout=subprocess.DEVNULL)
        command = ["nice", "cmake", "--build", build, "--parallel", "2", "--target", "mhv-disk", "nbdkit-mhv-plugin"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return build / "cpp/disk/export"


class Slide:
    """One disk. `folder` must be writable for the user of the image; its paths must be short enough for sockets."""

    def __init__(self, host, guest, folder, *options):
        self.host, self.guest, self.options = host, guest, options
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(mode=0o777)
        self.folder.chmod(0o777)
        self.bin = programs()
        self.socket, self.control, self.pid_file = (self.folder / name for name in ("nbd", "ctl", "pid"))
        self.log = open(self.folder / "log", "w")
        self.daemons, self.below = [], None

    def qmp(self, command, **arguments):
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        text = self.host.virsh("qemu-monitor-command", self.guest.name, json.dumps({"execute": command, "arguments": arguments}))
        reply = json.loads(text)
        if "error" in reply:
            raise RuntimeError(f"{command}: {reply['error']['desc']}")
        return reply["return"]

    def find(self):
        """(path of the device, its node) of the guest's only disk."""
        (disk,) = [block for block in self.qmp("query-block") if block.get("inserted")]
        return disk["qdev"].removesuffix("/virtio-backend"), disk["inserted"]

    def spawn(self, *command):
        inside = self.host.command("setpriv", "--reuid", USER, "--regid", "kvm", "--clear-groups", *command)
        self.daemons.append(subprocess.Popen(inside, stdout=self.log, stderr=self.log))

    def _start_below(self, inserted):
        """What of the export's command line says where the image is; a storage daemon, without the image yet, where one is needed."""
        if inserted["drv"] in ("raw", "file"):
            return ["--base", inserted["file"]]
        below, monitor = self.folder / "base", self.folder / "qmp"
        self.spawn(
            "qemu-storage-daemon",
            "--nbd-server", f"addr.type=unix,addr.path={below},max-connections=0",
            "--chardev", f"socket,id=monitor,path={monitor},server=on,wait=off",
            "--monitor", "chardev=monitor",
        )  # fmt: skip
        self.below = self.daemons[-1]
        self.monitor = lab.wait_until("the storage daemon", lambda: self._connect(monitor))
        self.below_qmp("qmp_capabilities")
        return ["--base-nbd", below]

    @staticmethod
    def _connect(path):
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(str(path))
        except OSError:
            return None
        lines = link.makefile("rw")
        lines.readline()
        return lines

    def below_qmp(self, command, **arguments):
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor.flush()
        reply = json.loads(self.monitor.readline())
        if "return" not in reply:
            raise RuntimeError(f"{command}: {reply}")

    def _open_below(self, inserted):
        if not self.below:
            return
        file = {"driver": "file", "filename": inserted["file"], "discard": "unmap"}
        self.below_qmp("blockdev-add", **{"driver": inserted["drv"], "node-name": "image", "file": file, "discard": "unmap"})
        self.below_qmp("block-export-add", **{"type": "nbd", "id": "image", "node-name": "image", "name": "", "writable": True})

    def _close_below(self):
        if self.below:
            self.daemons.remove(self.below)
            self.below.terminate()
            self.below.wait(30)
            self.below = None

    def serve(self, *base):
        plugin = self.bin / "nbdkit-mhv-plugin.so"
        self.spawn(
            self.bin / "mhv-disk", "serve", "--socket", self.socket, "--control", self.control, "--journal", self.folder / "journal",
            "--plugin", plugin, "--pid-file", self.pid_file, *base, *self.options,
        )  # fmt: skip
        lab.wait_until("the export", self._answers)  # its sockets may be there from before

    @contextlib.contextmanager
    def _stopped(self):
        self.qmp("stop")
        before = time.perf_counter()
        yield
        self.qmp("cont")
        self.pause_ms = (time.perf_counter() - before) * 1000

    def _give(self, node):
        self.qmp("qom-set", path=self.device, property="drive", value=node)

    def slide_in(self):
        self.device, inserted = self.find()
        self.node, self.size = inserted["node-name"], inserted["image"]["virtual-size"]
        self.serve("--size", str(self.size), *self._start_below(inserted))
        server = {"type": "unix", "path": str(self.socket)}
        self.qmp("blockdev-add", driver="nbd", node_name=NODE, server=server, reconnect_delay=60, discard="unmap")
        with self._stopped():
            self._give(NODE)
            self.qmp("blockdev-set-active", node_name=self.node, active=False)
            self._open_below(inserted)
            self.ask("open")

    def take_out(self):
        names = self.marks()
        if names:
            self.ask("drop", *names)
        self.ask("fold", check=False)  # most of it, while the guest runs
        with self._stopped():
            self.ask("close")
            self._close_below()
            self.qmp("blockdev-set-active", node_name=self.node, active=True)
            self._give(self.node)
            self.qmp("blockdev-del", node_name=NODE)
        self.end()

    def end(self):
        """Ends the daemons, the export first."""
        while self.daemons:
            daemon = self.daemons.pop()
            daemon.terminate()
            daemon.wait(30)

    def ask(self, verb, *names, check=True):
        return self.host.run(self.bin / "mhv-disk", verb, "--control", self.control, *names, check=check).stdout.split()

    def mark(self):
        name = str(uuid.uuid4())
        self.ask("mark", name)
        return name

    def marks(self):
        return self.ask("list")

    def stat(self):
        words = self.ask("stat")
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))

    def kill(self):
        """kill -9 of the export; returns when another one answers."""
        pid = int(self.pid_file.read_text())
        lab.kill(pid)
        lab.wait_until("a new export", lambda: int(self.pid_file.read_text()) != pid and self._answers())

    def _answers(self):
        with socket.socket(socket.AF_UNIX) as link:
            return link.connect_ex(str(self.control)) == 0

    def io(self, *commands):
        """qemu-io on the export, beside the guest."""
        words = [word for command in commands for word in ("-c", command)]
        return self.host.run("qemu-io", "-f", "raw", *words, f"nbd+unix:///?socket={self.socket}").stdout
