"""What the functional tests work with: a private host, stock guests on it, and mhvctl.

``Host`` is a set of namespaces with libvirt and the engine (tests/functional/host). ``Guest`` is a libvirt domain that
runs the self-checking program of devstack/guest; ``Engine`` speaks to mhvd through ``mhvctl --json``.
"""

import concurrent.futures
import ctypes
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

TOP = pathlib.Path(__file__).resolve().parents[2]
DRIVER = TOP / "tests/functional/host"
CLONE_NEWNET = 0x40000000
VIRT = os.environ.get("MHV_TEST_VIRT", "qemu")  # "kvm": inside the machine of tests/kvm
SLOW = 5 if VIRT == "kvm" else 1
BOOT_S = 120 * SLOW
COMMAND_S = 180 * SLOW


KERNELS = ("5.10", "6.1", "6.12")  # of Debian 11, of 12, of its backports


def images_with(state, kernel):
    """The folder of the test guest's images with a kernel of that series."""
    images = state / f"images-{kernel}"
    subprocess.run([TOP / "devstack/guest/build", images, kernel], check=True, stdout=subprocess.DEVNULL)
    return images


def wait_until(what, condition, seconds=60.0):
    """Polls until `condition()` is true, and returns its value; fails with `what` and the last value otherwise."""
    deadline = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s; last seen: {value!r}")
        time.sleep(0.05)


class EngineError(Exception):
    """mhvctl ended with an error: `code` as in ``nova_mhv.engine``, `message`, `hint`, and its exit status."""

    def __init__(self, code, message, hint, status):
        super().__init__(f"{code}: {message} ({hint})")
        self.code, self.message, self.hint, self.status = code, message, hint, status


class Host:
    """A private host, number 1 or 2 of the state folder `state`. `stop()` ends everything that lives in it."""

    def __init__(self, state, number=1):
        self.state, self.number = pathlib.Path(state), number
        self.folder = self.state / f"cloud/host{number}"
        self.bin = self.state / "engine/bin"
        self._sockets = concurrent.futures.ThreadPoolExecutor(1)

    def drive(self, *args):
        env = dict(os.environ, MHV_STATE=str(self.state))
        done = subprocess.run([DRIVER, *map(str, args)], env=env, capture_output=True, text=True, timeout=900)
        if done.returncode:
            raise RuntimeError(f"host {' '.join(map(str, args))}: {done.stdout[-2000:]}{done.stderr[-3000:]}")

    def start(self, engine=True):
        self.drive("up", self.number)
        self._sockets.submit(self._enter_network).result()
        if engine:
            self.drive("engine", self.number)

    def stop(self):
        self.drive("down", self.number)

    @property
    def keeper(self):
        return int((self.folder / "keeper").read_text())

    def _enter_network(self):
        with open(f"/proc/{self.keeper}/ns/net") as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def connect(self, address, port, timeout):
        """A TCP connection out of the host's network namespace; usable from any thread."""
        return self._sockets.submit(socket.create_connection, (address, port), timeout).result()

    def command(self, *args):
        inside = ["nsenter", "-t", str(self.keeper), "-m", "-n", "-u", "-r", "--wd=/"]
        return [*inside, *map(str, args)]

    def run(self, *args, check=True, timeout=COMMAND_S, **more):
        done = subprocess.run(self.command(*args), capture_output=True, text=True, timeout=timeout, **more)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, args))}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def virsh(self, *args, check=True, timeout=COMMAND_S):
        return self.run("virsh", "-q", "-c", "qemu:///system", *args, check=check, timeout=timeout).stdout.strip()

    def daemon_pid(self, name):
        """Process id of a service, or 0 while its keeper starts it again."""
        for folder in (self.folder / "daemons").glob(f"*-{name}"):
            try:
                pid = int((folder / "child").read_text())
                return pid if running(pid) else 0
            except (OSError, ValueError):
                return 0
        return 0

    def log(self, name):
        prefix = "" if self.number == 1 else f"mhv{self.number}-"
        path = self.state / f"cloud/log/{prefix}{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Engine:
    """mhvctl on a host. Every method returns what it prints as JSON, or raises EngineError."""

    def __init__(self, host):
        self.host = host

    def call(self, *args, timeout=COMMAND_S, good=(0,)):
        done = self.host.run(self.host.bin / "mhvctl", "--json", *args, check=False, timeout=timeout)
        if done.returncode not in good:
            raise self._error(done)
        return json.loads(done.stdout)

    @staticmethod
    def _error(done):
        try:
            error = json.loads(done.stdout)["error"]
        except (ValueError, KeyError):  # a wrong command line, or no mhvctl
            return EngineError("text", (done.stdout + done.stderr).strip(), "", done.returncode)
        return EngineError(error["code"], error["message"], error["hint"], done.returncode)

    def attach(self, guest, *more):
        self.call("attach", guest, *more)
        return self.wait_state(guest, "attached")

    def detach(self, guest):
        return self.call("detach", guest)

    def forget(self, guest):
        return self.call("forget", guest)

    def status(self, guest=None):
        """All known guests, or the one named (None when it is unknown)."""
        guests = self.call("status").get("guests", [])
        if guest is None:
            return guests
        return next((g for g in guests if guest in (g["name"], g["uuid"])), None)

    def wait_state(self, guest, state, seconds=60):
        def reached():
            try:
                seen = self.status(guest)
            except EngineError as error:  # mhvd is just being started again
                return print(error, file=sys.stderr)
            return seen if seen and seen["state"] == state else print(seen, file=sys.stderr)

        return wait_until(f"guest {guest} to be {state}", reached, seconds)

    def create(self, guest, name=None, timeout=COMMAND_S):
        more = ["--name", name] if name else []
        return self.call("checkpoint", "create", guest, *more, timeout=timeout)["checkpoint"]

    def list(self, guest):
        return self.call("checkpoint", "list", guest).get("checkpoints", [])

    def show(self, guest, checkpoint):
        return self.call("checkpoint", "show", guest, checkpoint)["checkpoint"]

    def restore(self, guest, checkpoint, timeout=COMMAND_S):
        return self.call("checkpoint", "restore", guest, checkpoint, timeout=timeout)

    def delete(self, guest, checkpoint):
        return self.call("checkpoint", "delete", guest, checkpoint)

    def export(self, guest, checkpoint, file, *more):
        return self.call("checkpoint", "export", guest, checkpoint, "--file", file, *more)

    def verify(self, guest):
        """The report; `problems` in it end mhvctl with a status of its own, and are no EngineError here."""
        report = self.call("checkpoint", "verify", guest, good=(0, 18))
        assert "problems" in report, report
        return report


class Guest:
    """A stock libvirt guest. Kinds:

    memfd   shared memfd RAM and a monitor of its own, as the Nova driver defines them
    anon    anonymous RAM and libvirt's monitor alone, as plain libvirt defines them
    smp     memfd with 2 vCPUs          vga   memfd with a standard VGA          uefi  q35, OVMF in pflash, NVRAM
    raw     memfd with a raw disk       numa  memfd, a memory backend and a vCPU for each of 2 nodes
    lean    memfd with the devices that the Nova driver gives a server with frequent checkpoints
    touched lean, QEMU having touched all of its memory before the guest starts
    """

    numbers = iter(range(10, 250))
    arguments = ()  # more of QEMU's command line, for guests with a monitor of their own
    more_disks = ()  # their <disk> elements

    def __init__(self, host, images, folder, kind="memfd", mib=32, ram_mib=128, vcpus=None):
        self.host, self.kind, self.mib, self.ram_mib = host, kind, mib, ram_mib
        self.vcpus = vcpus or (2 if kind in ("smp", "numa") else 1)
        number = next(self.numbers)
        self.name = f"guest{number}"
        self.uuid = str(uuid.uuid4())
        self.ip = f"10.55.0.{number}"
        self.mac = f"52:54:00:55:00:{number:02x}"
        self.tap = f"tap-{self.name}"  # by name: what is left of a former one would be in the way
        self.folder = pathlib.Path(folder) / self.name
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o777)
        self.images = images
        self.keys = set()
        self.disk_format = "raw" if kind == "raw" else "qcow2"
        self.disk = self.folder / f"disk.{self.disk_format}"
        if kind == "raw":
            subprocess.run(["qemu-img", "convert", "-O", "raw", images / "root.qcow2", self.disk], check=True)
        else:
            shutil.copy(images / "root.qcow2", self.disk)
        self.console_log = self.folder / "console.log"
        self.console_log.touch()
        self.console_log.chmod(0o666)

    @property
    def own_monitor(self):
        return self.kind != "anon"

    @property
    def is_lean(self):
        return self.kind in ("lean", "touched")

    def _firmware(self):
        if self.kind != "uefi":
            return ""
        return f"""
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>{self.folder}/nvram.fd</nvram>"""

    def _nodes(self):
        if self.kind != "numa":
            return ""
        cell = "<cell id='{0}' cpus='{0}' memory='{1}' unit='MiB' memAccess='shared'/>"
        return f"<cpu><numa>{''.join(cell.format(number, self.ram_mib // 2) for number in range(2))}</numa></cpu>"

    def _arguments(self):
        values = list(self.arguments)
        if self.is_lean:
            values += ["-global", "virtio-net-pci.disable-modern=on", "-global", "virtio-blk-pci.disable-modern=on"]
        return "\n".join(f"    <qemu:arg value='{value}'/>" for value in values)

    def xml(self):
        touched = "<allocation mode='immediate'/>" if self.kind == "touched" else ""
        shared = f"<memoryBacking><source type='memfd'/><access mode='shared'/>{touched}</memoryBacking>"
        monitor = f"""
  <qemu:commandline>
    <qemu:arg value='-chardev'/>
    <qemu:arg value='socket,id=mhv,path=/run/nova-mhv/qmp/{self.uuid}.sock,server=on,wait=off'/>
    <qemu:arg value='-mon'/>
    <qemu:arg value='chardev=mhv,mode=control'/>
{self._arguments()}
  </qemu:commandline>"""
        return f"""
<domain type='{VIRT}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>{self.ram_mib}</memory>
  <vcpu>{self.vcpus}</vcpu>
  {shared if self.own_monitor else ""}
  <os>
    <type arch='x86_64' machine='{"q35" if self.kind == "uefi" else "pc"}'>hvm</type>{self._firmware()}
    <kernel>{self.images}/vmlinuz</kernel>
    <initrd>{self.images}/initrd.gz</initrd>
    <cmdline>console=ttyS0 quiet no_timer_check mhv.ip={self.ip}/24 mhv.gw=10.55.0.1 mhv.mib={self.mib}</cmdline>
  </os>
  <features><acpi/></features>
  {self._nodes()}
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{self.disk_format}'/>
      <source file='{self.disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    {"".join(self.more_disks)}
    <interface type='bridge'>
      <mac address='{self.mac}'/>
      <source bridge='br0'/>
      <target dev='{self.tap}'/>
      <model type='virtio'/>
      <driver name='qemu'/>
    </interface>
    <serial type='file'><source path='{self.console_log}' append='on'/></serial>
    <video><model type='{"vga" if self.kind == "vga" else "none"}'/></video>
    {"<memballoon model='none'/>" if self.is_lean else ""}
  </devices>{monitor if self.own_monitor else ""}
</domain>"""

    def define(self):
        path = self.folder / "domain.xml"
        path.write_text(self.xml())
        self.host.virsh("define", path)

    def start(self):
        self.define()
        self.host.virsh("start", self.name)
        self.wait_answer(BOOT_S)
        return self

    def remove(self):
        """Ends and undefines the domain; never fails."""
        self.host.virsh("destroy", self.name, check=False)
        self.host.virsh("managedsave-remove", self.name, check=False)
        self.host.virsh("undefine", self.name, "--nvram", "--snapshots-metadata", check=False)

    def fate(self):
        """For the report of a failed test: what became of the guest, as far as it can be told from outside."""
        if "BAD" in self.console():
            return "a page or block was WRONG"
        try:
            return "answers, all whole" if self.status("check", timeout=10)["bad"] == 0 else "a page was WRONG"
        except (OSError, LookupError, RuntimeError):
            return f"died or fell silent ({self.host.virsh('domstate', self.name, check=False) or 'no domain'})"

    @property
    def state(self):
        return self.host.virsh("domstate", self.name)

    def suspend(self):
        """Also while the engine stops it now and then: libvirt does nothing to a guest that does not run at that moment, so until it
        stays so."""

        def suspended():
            self.host.virsh("suspend", self.name)
            return all(self.state == "paused" for _ in range(10))

        wait_until("it to be suspended", suspended)

    @property
    def pid(self):
        return int(self.host.run("cat", f"/run/libvirt/qemu/{self.name}.pid").stdout)

    def console(self):
        return self.console_log.read_text(errors="replace") if self.console_log.exists() else ""

    def ask(self, line, timeout=60.0, host=None, port=7000):
        """One command to `port` (7000: selfcheck, 7001: load), and its answer without the "ok". Retries until `timeout`."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            try:
                answer = self._ask_once(line, host or self.host, port)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.name} does not answer {line!r}: {error}; console:\n{self.console()[-800:]}") from error
                time.sleep(0.1)
        if answer.startswith("error "):
            raise LookupError(answer)
        return answer.removeprefix("ok").strip()

    def _ask_once(self, line, host, port):
        with host.connect(self.ip, port, 3) as link:
            link.settimeout(20)
            link.sendall(line.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                more = link.recv(4096)
                if not more:
                    raise ConnectionError("closed in the middle of an answer")
                answer += more
        return answer.decode().strip()

    def wait_answer(self, seconds=BOOT_S, host=None):
        self.ask("status", timeout=seconds, host=host)

    def status(self, command="status", **more):
        words = dict(word.split("=", 1) for word in self.ask(command, **more).split())
        return {key: value if key in ("disk", "boot") else int(value) for key, value in words.items()}

    def assert_whole(self, **more):
        """Every page and every disk block, verified by the guest itself, now and at any time before."""
        seen = self.status("check", **more)
        assert (seen["bad"], seen["disk"]) == (0, "ok"), f"{seen}\n{self.console()[-2000:]}"
        assert "BAD" not in self.console(), self.console()[-2000:]
        return seen

    def set(self, key, value):
        self.keys.add(key)
        self.ask(f"set {key} {value}")

    def get(self, key):
        """The value, or None."""
        try:
            return self.ask(f"get {key}")
        except LookupError:
            return None

    def quiet(self):
        """Stops rewriting pages and blocks, and returns the fingerprint that now stands still."""
        self.ask("rate 0")
        self.ask("disk-rate 0")
        return self.fingerprint()

    def fingerprint(self):
        return self.ask("mem-fingerprint")

    def reset(self):
        """As after a boot: whole, no keys, the usual rates."""
        self.assert_whole(timeout=20)
        for key in self.keys:
            try:
                self.ask(f"del {key}")
            except LookupError:
                pass
        self.keys.clear()
        for line in ("rate 100", "disk-rate 5", "verify 2000"):
            self.ask(line)

    def ram_digests(self):
        """SHA-256 of every RAM block that the guest may write, read from outside through QEMU's memory, by the block's name.
        The guest must not run."""
        listing = self.host.virsh("qemu-monitor-command", self.name, "--hmp", "info ramblock")
        digests = {}
        with open(f"/proc/{self.pid}/mem", "rb") as memory:
            for row in listing.splitlines()[1:]:
                *_, used, _, address, access = row.split()
                if access == "rw":
                    memory.seek(int(address, 16))
                    digests[row.split()[0]] = hashlib.sha256(memory.read(int(used, 16))).hexdigest()
        return digests

    def busy(self, rate=2000, pages=None):
        """Rewrites pages, until `pages` of them were written."""
        before = self.status()["gen"]
        self.ask("disk-rate 50")
        self.ask(f"rate {rate}")
        if pages:
            wait_until(f"{pages} pages written", lambda: self.status()["gen"] >= before + pages)
