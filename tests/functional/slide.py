"""An epoch journal slid under a running disk of a stock libvirt guest, and taken out again, by monitor commands alone.

In, while the guest is stopped: the device gets an empty node, the image's own node is set inactive (QEMU writes its caches out
and gives up the image's lock), the image is opened by the export (a raw one) or by qemu-storage-daemon below it (any other),
and the device gets the export's node. Out is the reverse, after everything was folded into the image.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import time
import uuid

import lab

USER = "libvirt-qemu"
NODE, EMPTY = "mhv-vda", "mhv-empty"


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
        self.daemons = []
        self.inside = False

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

    def _open_image(self, node):
        """What of the export's command line says where the image is."""
        if node["drv"] == "raw" or node["drv"] == "file":
            return ["--base", node["file"]]
        below = self.folder / "base"
        self.spawn(
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,filename={node['file']},node-name=file,discard=unmap",
            "--blockdev", f"driver={node['drv']},file=file,node-name=image,discard=unmap",
            "--nbd-server", f"addr.type=unix,addr.path={below},max-connections=0",
            "--export", "type=nbd,id=image,node-name=image,name=,writable=on",
        )  # fmt: skip
        lab.wait_until("the storage daemon", below.exists)
        return ["--base-nbd", below]

    def serve(self, *base):
        plugin = self.bin / "nbdkit-mhv-plugin.so"
        self.spawn(
            self.bin / "mhv-disk", "serve", "--socket", self.socket, "--control", self.control, "--journal", self.folder / "journal",
            "--plugin", plugin, "--pid-file", self.pid_file, *base, *self.options,
        )  # fmt: skip
        lab.wait_until("the export's socket", self.socket.exists)

    @contextlib.contextmanager
    def _stopped(self):
        self.qmp("stop")
        before = time.perf_counter()
        yield
        self.qmp("cont")
        self.pause_ms = (time.perf_counter() - before) * 1000

    def _give(self, node):
        self.qmp("qom-set", path=self.device, property="drive", value=node)

    def _take_away(self, size):
        self.qmp("blockdev-add", driver="null-co", node_name=EMPTY, size=size)
        self._give(EMPTY)

    def slide_in(self):
        self.device, inserted = self.find()
        self.node, self.size = inserted["node-name"], inserted["image"]["virtual-size"]
        with self._stopped():
            self._take_away(self.size)
            self.qmp("blockdev-set-active", node_name=self.node, active=False)
            self.serve(*self._open_image(inserted))
            server = {"type": "unix", "path": str(self.socket)}
            self.qmp("blockdev-add", driver="nbd", node_name=NODE, server=server, reconnect_delay=60, discard="unmap")
            self._give(NODE)
            self.qmp("blockdev-del", node_name=EMPTY)
        self.inside = True

    def take_out(self):
        names = self.marks()
        if names:
            self.ask("drop", *names)
        self.ask("fold", check=False)  # most of it, while the guest runs
        with self._stopped():
            self._take_away(self.size)
            self.qmp("blockdev-del", node_name=NODE)
            self.ask("fold")
            self.end()
            self.qmp("blockdev-set-active", node_name=self.node, active=True)
            self._give(self.node)
            self.qmp("blockdev-del", node_name=EMPTY)
        self.inside = False

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
        """kill -9 of the export; returns when another one runs."""
        pid = int(self.pid_file.read_text())
        lab.kill(pid)
        lab.wait_until("a new export", lambda: int(self.pid_file.read_text()) != pid)

    def io(self, *commands):
        """qemu-io on the export, beside the guest."""
        words = [word for command in commands for word in ("-c", command)]
        return self.host.run("qemu-io", "-f", "raw", *words, f"nbd+unix:///?socket={self.socket}").stdout
