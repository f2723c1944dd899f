"""A guest's kernel that is tampered with from outside is found out, and one that is left alone is not accused.

The guest is suspended meanwhile: no processor runs into what was put there.

MHV_SOAK_S sets for how many seconds a busy guest is watched (default 24; tests/soak/run takes an hour).
"""

import contextlib
import json
import os
import struct
import subprocess
import time

import lab
import pytest
from shell import Shell, TalkingGuest

SOAK_S = int(os.environ.get("MHV_SOAK_S", "24"))
SOAK_EPOCHS_MS = (25, 100, 250, 1000)  # each for its share of the time

EPOCH_MS = 100
KERNEL_ADDRESS = 0xFFFFFFFFC0E00000  # nobody's


class Kernel:
    """The memory of a guest's kernel, through QEMU."""

    def __init__(self, engine, guest):
        self.engine, self.guest = engine, guest
        listing = guest.host.virsh("qemu-monitor-command", guest.name, "--hmp", "info ramblock")
        row = next(row.split() for row in listing.splitlines() if row.split()[0] == "pc.ram")
        self.ram = int(row[-2], 16)
        self.memory = open(f"/proc/{guest.pid}/mem", "r+b", buffering=0)
        registers = guest.host.virsh("qemu-monitor-command", guest.name, "--hmp", "info registers")
        words = dict(word.split("=") for word in registers.replace("\n", " ").split() if word.count("=") == 1)
        self.root = int(words["CR3"], 16) & 0xFFFFFFFFF000
        self.levels = 5 if int(words["CR4"], 16) >> 12 & 1 else 4
        self.idt = int(registers.split("IDT=", 1)[1].split()[0], 16)

    def ask(self, method, **arguments):
        return self.engine.call("layer", "call", self.guest.name, "introspection", method, json.dumps(arguments))[method]

    def symbol(self, name):
        return int(self.ask("symbol", name=name)["address"], 16)

    def offset(self, structure, member):
        return self.ask("layout", structure=structure, member=member)["offset"]

    def _physical(self, at):
        table = self.root
        for level in range(self.levels, 0, -1):
            shift = 12 + 9 * (level - 1)
            self.memory.seek(self.ram + table + (at >> shift & 511) * 8)
            (entry,) = struct.unpack("<Q", self.memory.read(8))
            assert entry & 1, f"{at:#x} is not mapped"
            table = entry & 0xFFFFFFFFFF000
            if level == 1 or entry & 0x80 and level < 4:
                return (table & ~((1 << shift) - 1)) + (at & ((1 << shift) - 1))
        raise AssertionError

    def read(self, at, count):
        self.memory.seek(self.ram + self._physical(at))
        return self.memory.read(count)

    def write(self, at, data):
        self.memory.seek(self.ram + self._physical(at))
        self.memory.write(data)

    def pointer(self, at):
        return struct.unpack("<Q", self.read(at, 8))[0]

    def tasks(self):
        """Where each is on the list, by pid."""
        first, links, pid = self.symbol("init_task"), self.offset("task_struct", "tasks"), self.offset("task_struct", "pid")
        found, at = {}, self.pointer(first + links)
        while at != first + links:
            found[struct.unpack("<i", self.read(at - links + pid, 4))[0]] = at
            at = self.pointer(at)
        return found


def quad(value):
    return struct.pack("<Q", value)


# What each leaves behind: a kind of finding, and places with what is put there.
def a_system_call(kernel):
    return "syscall_table", [(kernel.symbol("sys_call_table") + 78 * 8, quad(KERNEL_ADDRESS))]


def a_system_call_of_another(kernel):
    return "syscall_table", [(kernel.symbol("sys_call_table") + 62 * 8, quad(kernel.symbol("vfs_read")))]


def a_patched_function(kernel):
    return "kernel_text", [(kernel.symbol("tcp4_seq_show"), b"\xe9\x00\x00\x00\x01")]


def the_dispatch(kernel):
    return "syscall_dispatch", [(kernel.symbol("do_syscall_64") + 0x60, b"\xe8\x00\x10\x00\x01")]


def the_code_of_the_dispatch(kernel):
    try:
        at = kernel.symbol("x64_sys_call")
    except lab.EngineError:  # 5.10 goes by the table alone
        at = kernel.symbol("entry_SYSCALL_64")
    return "syscall_dispatch", [(at + 0x40, b"\xe9\x00\x10\x00\x01")]


def operations_of_a_file(kernel):
    return "function_pointer", [(kernel.symbol("tcp4_seq_ops") + 24, quad(KERNEL_ADDRESS))]


def read_only_data(kernel):
    return "kernel_rodata", [(kernel.symbol("linux_banner") + 8, b"X")]


def an_interrupt_gate(kernel):
    return "idt", [(kernel.idt + 16 * 0x80 + 6, b"\x00\xc0")]


def a_hidden_task(kernel):
    tasks = kernel.tasks()
    at = tasks[max(tasks)]
    after, before = kernel.pointer(at), kernel.pointer(at + 8)
    return "hidden_process", [(before, quad(after)), (after + 8, quad(before))]


def a_sleeping_task_that_no_list_names(kernel):
    try:
        state = kernel.offset("task_struct", "__state")
    except lab.EngineError:  # 5.10
        state = kernel.offset("task_struct", "state")
    links, interruptible = kernel.offset("task_struct", "tasks"), struct.pack("<I", 1)
    tasks = [at - links for _, at in sorted(kernel.tasks().items())]
    task = [task for task in tasks if kernel.read(task + state, 4) == interruptible][-1]
    after, before = kernel.pointer(task + links), kernel.pointer(task + links + 8)
    number = kernel.pointer(task + kernel.offset("task_struct", "thread_pid")) + kernel.offset("pid", "tasks")
    return "hidden_process", [(before, quad(after)), (after + 8, quad(before)), (number, quad(0))]


def ftrace_operations(kernel):
    forged = kernel.symbol("__log_buf") + 0x1000
    body = bytearray(kernel.offset("ftrace_ops", "flags") + 64)
    struct.pack_into("<Q", body, kernel.offset("ftrace_ops", "func"), KERNEL_ADDRESS)
    struct.pack_into("<Q", body, kernel.offset("ftrace_ops", "next"), kernel.pointer(kernel.symbol("ftrace_ops_list")))
    return "ftrace", [(forged, bytes(body)), (kernel.symbol("ftrace_ops_list"), quad(forged))]


TAMPERINGS = [
    a_system_call,
    a_system_call_of_another,
    a_patched_function,
    the_dispatch,
    the_code_of_the_dispatch,
    operations_of_a_file,
    read_only_data,
    an_interrupt_gate,
    a_hidden_task,
    a_sleeping_task_that_no_list_names,
    ftrace_operations,
]


def findings(engine, guest):
    return engine.call("layer", "call", guest.name, "integrity", "findings", "{}")["findings"]


def status(engine, guest):
    return engine.call("layer", "call", guest.name, "integrity", "status", "{}")["status"]


def attach(engine, guest, **configuration):
    configuration = {"epoch_ms": EPOCH_MS, **configuration}
    services = ("--service", "checkpoint", "--service", "introspection", "--service", "integrity")
    engine.attach(guest.name, *services, "--configure", f"integrity={json.dumps(configuration)}")

    def measured():
        try:
            seen = status(engine, guest)
            return seen["measured"] or print(seen)
        except lab.EngineError as error:  # it is just being started
            return print(error)

    lab.wait_until("the kernel to be measured", measured)


def wait_for_checks(engine, guest, more):
    before = status(engine, guest)["checks"]
    lab.wait_until(f"{more} more checks", lambda: status(engine, guest)["checks"] >= before + more)


@pytest.fixture(scope="module", params=lab.KERNELS)
def watched(request, host, engine, state):
    guest = TalkingGuest(host, lab.images_with(state, request.param), state / "guests", ram_mib=256)
    try:
        guest.start()
        attach(engine, guest)
        yield guest
        engine.forget(guest.uuid)
    finally:
        guest.remove()


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda tampering: tampering.__name__)
def test_tampering_is_found(engine, host, watched, tampering):
    watched.suspend()
    try:
        kernel = Kernel(engine, watched)
        kind, places = tampering(kernel)
        saved = [(at, kernel.read(at, len(data))) for at, data in places]
        assert findings(engine, watched) == []
        for at, data in places:
            kernel.write(at, data)
        try:
            seen = lab.wait_until(kind, lambda: [f for f in findings(engine, watched) if f["kind"] == kind], 20)
        finally:
            for at, data in saved:
                kernel.write(at, data)
        alerts = engine.call("alerts", watched.name)["alerts"]
        assert any(a["severity"] == "critical" and a["title"].startswith(kind) for a in alerts), seen
        lab.wait_until("it to be well again", lambda: findings(engine, watched) == [], 20)
    finally:
        host.virsh("resume", watched.name)
    watched.assert_whole()


# What a kernel does to itself, again and again: modules come and go, jump labels and traced functions are rewritten, probes are set; and
# processes, sockets, mounts, files, packet filters. /tmp/rounds counts.
BUSY = """
t=/sys/kernel/tracing; mount -t tracefs tracefs $t
while :; do
    rmmod isofs vfat fat; insmod /lib/m/fat.ko; insmod /lib/m/vfat.ko; insmod /lib/m/isofs.ko
    echo 1 > $t/events/sched/enable; echo 1 > /proc/sys/kernel/sched_schedstats
    echo 'do_sys_open* vfs_*' > $t/set_ftrace_filter; echo function > $t/current_tracer
    echo 'p:mhv do_unlinkat' > $t/kprobe_events; echo 1 > $t/events/kprobes/enable
    for i in 1 2 3 4 5 6 7 8; do (cat /proc/*/stat; ls -lR /sys/module) > /dev/null & done; wait
    dd if=/dev/urandom of=/tmp/a bs=64k count=32; gzip -kf /tmp/a; sha256sum /tmp/a.gz; rm /tmp/a /tmp/a.gz
    (echo x | timeout 2 nc -l -p 9000) & arping -q -c 1 -w 1 -I eth0 10.55.0.1; timeout 2 nc 127.0.0.1 9000 < /dev/null; wait
    mount -t tmpfs more /mnt; unshare -m -n -p -f ping -q -c 1 127.0.0.1; umount /mnt
    echo 0 > $t/events/kprobes/enable; echo > $t/kprobe_events
    echo nop > $t/current_tracer; echo > $t/set_ftrace_filter
    echo 0 > $t/events/sched/enable; echo 0 > /proc/sys/kernel/sched_schedstats
    echo round >> /tmp/rounds
done
"""


@contextlib.contextmanager
def busy(host, images, state):
    guest = TalkingGuest(host, images, state / "guests", ram_mib=256)
    try:
        guest.start()
        shell = Shell(guest.folder / "serial")
        shell.log_in()
        shell.type(f"({BUSY}) < /dev/null > /dev/null 2>&1 &")
        lab.wait_until("the guest to be busy", lambda: shell.say("cat /tmp/rounds"))
        yield guest, lambda: len(shell.say("cat /tmp/rounds").split())
    finally:
        guest.remove()


@pytest.fixture
def busy_guest(host, images, state):
    with busy(host, images, state) as seen:
        yield seen


def watch(engine, guest, rounds, seconds):
    """For so long, and two rounds of the guest at least: (epochs checked, kinds of notes); fails with the first finding."""
    until, last, kinds = time.monotonic() + seconds * lab.SLOW, rounds() + 2, set()
    while time.monotonic() < until or rounds() < last:
        wait_for_checks(engine, guest, 5)
        alerts = engine.call("alerts", guest.name)["alerts"]
        assert [a for a in alerts if a["severity"] == "critical"] == []
        assert findings(engine, guest) == []
        kinds |= {a["title"].split()[0] for a in alerts}
        assert engine.call("introspect", "processes", guest.name)["processes"]
    engine.create(guest.name)
    wait_for_checks(engine, guest, 3)
    assert findings(engine, guest) == []
    # One that was started again has trusted the kernel anew.
    assert [layer for layer in engine.status(guest.name)["layers"] if layer.get("restarts")] == []
    return status(engine, guest)["checks"], kinds


def test_a_busy_guest_is_not_accused(engine, busy_guest):
    guest, rounds = busy_guest
    checks, kinds, before = 0, set(), rounds()
    for epoch_ms in SOAK_EPOCHS_MS:
        attach(engine, guest, epoch_ms=epoch_ms)
        try:
            checked, seen = watch(engine, guest, rounds, SOAK_S / len(SOAK_EPOCHS_MS))
        finally:
            engine.forget(guest.uuid)
        print(f"{checked} epochs of {epoch_ms} ms, {rounds() - before} rounds of the guest so far")
        checks, kinds = checks + checked, kinds | seen
    print(f"{checks} epochs checked, nothing found")
    assert {"module_loaded", "module_unloaded", "kprobe"} <= kinds
    guest.assert_whole()


def test_a_tampered_kernel_is_rolled_back(engine, host, make_guest):
    guest = make_guest("memfd")
    attach(engine, guest, on_finding="rollback")
    wait_for_checks(engine, guest, 3)
    checkpoint = engine.create(guest.name)
    wait_for_checks(engine, guest, 3)
    guest.set("later", "1")
    kernel = Kernel(engine, guest)
    table = kernel.symbol("sys_call_table") + 78 * 8
    right = kernel.pointer(table)
    kernel.write(table, quad(KERNEL_ADDRESS))
    lab.wait_until("the rollback", lambda: kernel.pointer(table) == right)
    lab.wait_until("the guest to be as it was", lambda: guest.get("later") is None)
    assert engine.show(guest.name, checkpoint["id"])["current"]
    guest.assert_whole()


def test_a_guest_that_starts_again_is_measured_again(engine, host, make_guest):
    guest = make_guest("memfd")
    attach(engine, guest)
    boot = guest.status()["boot"]
    first = status(engine, guest)["measured_ns"]
    host.virsh("reset", guest.name)
    lab.wait_until("another boot", lambda: guest.status()["boot"] != boot)

    def measured_again():
        try:
            seen = status(engine, guest)
        except lab.EngineError as error:
            return print(error)
        return seen["measured"] and seen["measured_ns"] != first and seen["checks"] > 3

    lab.wait_until("the new kernel to be measured", measured_again)
    assert findings(engine, guest) == []
    guest.assert_whole()


VENDOR_FOLDER = "/etc/nova-mhv/layer-data/integrity"


@pytest.fixture(params=lab.KERNELS)
def vendors_guest(request, host, state):
    """A busy guest with a kernel of that series; the layer has a reference of it."""
    images = lab.images_with(state, request.param)
    kernel = subprocess.run([lab.TOP / "devstack/guest/kernel", request.param], check=True, capture_output=True, text=True)
    host.run("mkdir", "-p", VENDOR_FOLDER)
    try:
        host.run(host.bin / "mhv-vendor-kernel", "--folder", VENDOR_FOLDER, kernel.stdout.split()[-1])
        with busy(host, images, state) as (guest, _):
            yield guest
    finally:
        host.run("rm", "-r", VENDOR_FOLDER)


def test_what_was_patched_before_the_layer_came_is_found(engine, vendors_guest):
    guest = vendors_guest
    attach(engine, guest)
    seen = status(engine, guest)
    assert seen["vendor"]["sites"] > 50_000, seen
    assert seen["unchecked"] == []
    wait_for_checks(engine, guest, 20)
    assert findings(engine, guest) == []
    engine.forget(guest.uuid)

    engine.attach(guest.name, "--service", "introspection")
    kernel = Kernel(engine, guest)
    place = kernel.symbol("tcp4_seq_show") + 16  # runs when /proc/net/tcp is read
    was = kernel.read(place, 5)
    engine.forget(guest.uuid)
    kernel.write(place, b"\xe9\x00\x00\x00\x01")
    try:
        attach(engine, guest)
        wait_for_checks(engine, guest, 5)
        assert [(f["kind"], f["subject"]) for f in findings(engine, guest)] == [("vendor_text", "tcp4_seq_show")]
        assert any(
            a["severity"] == "critical" and a["title"] == "vendor_text tcp4_seq_show" for a in engine.call("alerts", guest.name)["alerts"]
        )
    finally:
        kernel.write(place, was)
    guest.assert_whole()
