"""What the engine says of a guest's kernel is what the guest says itself, for three generations of Debian's kernels.

The guest is asked before and after the engine: what both times was there has to be in the engine's answer, and what is in it has
to have been there one of the times.
"""

import ipaddress
import re
import struct

import lab
import pytest
from shell import Shell, TalkingGuest

SOCKET_STATES = {1: "established", 7: "unconnected", 10: "listen"}

# Something of each kind: files, pipes, sockets, mounts. The last word of each command is how it is found again.
SCENE = """
mkdir -p /mnt/a /mnt/b; mount -t tmpfs -o ro 'x y' /mnt/a
echo text > /tmp/gone; sleep 100001 < /tmp/gone & sleep 100002 | sleep 100003 &
unshare -m sh -c 'mount -t tmpfs inner /mnt/b; exec sleep 100004' &
syslogd -n & mdev -d -f & ping -q 127.0.0.1 & arping -q -I eth0 10.55.0.1 &
httpd -f -p [::1]:8080 & sleep 100005 | nc 127.0.0.1 7000 &
"""
SCENE_STARTED = "100001 100002 100003 100004 100005 syslogd mdev ping arping httpd nc"


@pytest.fixture(scope="module", params=lab.KERNELS)
def talker(request, host, engine, state):
    """An attached guest with a kernel of that series, and its shell."""
    guest = TalkingGuest(host, lab.images_with(state, request.param), state / "guests", ram_mib=256)
    try:
        guest.start()
        shell = Shell(guest.folder / "serial")
        shell.log_in()
        engine.attach(guest.name, "--service", "introspection")
        set_scene(shell)
        yield shell, lambda *what: ask(engine, guest, *what)
        engine.forget(guest.uuid)
    finally:
        guest.remove()


def set_scene(shell):
    shell.type(f"({SCENE}) < /dev/null > /dev/null 2>&1")

    def started():
        seen = shell.say("ps")
        return all(word in seen for word in SCENE_STARTED.split())

    lab.wait_until("the guest to start what it is to show", started)
    shell.say("rm -f /tmp/gone; echo 0 > /proc/sys/kernel/kptr_restrict; echo '<3>from a user' > /dev/kmsg")


def ask(engine, guest, kind, *more):
    return engine.call("introspect", kind, guest.name, *more)[kind]


def compare(shell, command, guests_view, ours):
    """`guests_view(text)` and `ours()` are sets of the same things."""
    before, between, after = guests_view(shell.say(command)), ours(), guests_view(shell.say(command))
    assert before & after <= between, f"not seen: {before & after - between}"
    assert between <= before | after, f"not there: {between - (before | after)}"
    assert between


def name_of(comm):
    """A kernel thread's as its task_struct has it: /proc adds what a kworker does, and gives some a longer one."""
    return re.sub(r"^(kworker/[^+-]*).*", r"\1", comm)[:15]


def stats(text):
    """Of /proc/*/stat, without what printed them: pid, name, parent."""
    found = re.findall(r"^(\d+) \((.*)\) \S (\d+)", text, re.MULTILINE)
    return {(int(pid), name_of(comm), int(parent)) for pid, comm, parent in found if comm not in ("cat", "sh")}


def test_kernel(talker):
    shell, ask_for = talker
    (kernel,) = ask_for("kernel")
    assert kernel["banner"] == shell.say("cat /proc/version").strip()
    assert kernel["hostname"] == shell.say("hostname").strip()
    assert kernel["command_line"] == shell.say("cat /proc/cmdline").strip()
    text = re.search(r"^([0-9a-f]+) T _text$", shell.say("grep ' _text$' /proc/kallsyms"), re.MULTILINE)
    assert int(kernel["address"], 16) == int(text[1], 16)


def test_processes(talker):
    shell, ask_for = talker
    compare(
        shell,
        "cat /proc/[0-9]*/stat",
        stats,
        lambda: {(p["pid"], name_of(p["name"]), p["parent"]) for p in ask_for("processes") if p["name"] not in ("cat", "sh")},
    )
    compare(
        shell,
        "for p in /proc/[0-9]*; do echo \"${p#/proc/} $(tr '\\0' ' ' < $p/cmdline)\"; done",
        lambda text: {
            (int(words[0]), " ".join(words[1:])) for words in map(str.split, text.splitlines()) if len(words) > 1 and words[1] != "-sh"
        },
        lambda: {(p["pid"], p["command"].strip()) for p in ask_for("processes") if p["command"] not in ("", "-sh")},
    )


def test_threads(talker):
    shell, ask_for = talker
    compare(
        shell,
        "cat /proc/[0-9]*/task/*/stat",
        lambda text: {(tid, name) for tid, name, _ in stats(text)},
        lambda: {(t["tid"], name_of(t["name"])) for t in ask_for("threads") if t["name"] not in ("cat", "sh")},
    )
    (tid,) = {t["tid"] for t in ask_for("threads", "--pid", 1)}
    assert tid == 1


def test_modules(talker):
    shell, ask_for = talker
    compare(
        shell,
        "cat /proc/modules",
        lambda text: {(f[0], int(f[1]), f[4].lower(), f[5]) for f in map(str.split, text.splitlines())},
        lambda: {(m["name"], m["bytes"], m["state"], m["address"]) for m in ask_for("modules")},
    )


def test_files(talker):
    shell, ask_for = talker

    def guests_view(text):
        # The shell itself has what it writes to open, and the directory that it lists.
        found = re.findall(r"^/proc/(\d+)/fd/(\d+) (.+)$", text, re.MULTILINE)
        return {(int(pid), int(fd), path) for pid, fd, path in found if path != "/tmp/said" and "/proc" not in path and int(pid) != me}

    me = int(shell.say("echo $$"))
    compare(
        shell,
        'for p in /proc/[0-9]*/fd/*; do echo "$p $(readlink $p)"; done',
        guests_view,
        lambda: {(f["pid"], f["fd"], f["path"]) for f in ask_for("files") if f["pid"] != me},
    )
    paths = {f["path"] for f in ask_for("files")}
    assert "/tmp/gone (deleted)" in paths
    assert any(path.startswith("pipe:[") for path in paths)


def internet(text):
    """Of /proc/net/tcp and the like, without those that nobody has open: inode, addresses, ports, state."""

    def end(field):
        address, port = field.split(":")
        words = b"".join(struct.pack("<I", int(address[i : i + 8], 16)) for i in range(0, len(address), 8))
        return str(ipaddress.ip_address(words)), int(port, 16)

    rows = [line.split() for line in text.splitlines() if "local_address" not in line]
    return {(int(f[9]), *end(f[1]), *end(f[2]), SOCKET_STATES[int(f[3], 16)]) for f in rows if f[9] != "0"}


def test_internet_sockets(talker):
    shell, ask_for = talker
    compare(
        shell,
        "cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6",
        internet,
        lambda: {
            (s["inode"], s["local"], s["local_port"], s["remote"], s["remote_port"], s["state"])
            for s in ask_for("sockets")
            if s["family"] in ("ipv4", "ipv6") and s["type"] != "raw"
        },
    )
    families = {(s["family"], s["state"]) for s in ask_for("sockets")}
    assert {("ipv4", "listen"), ("ipv4", "established"), ("ipv6", "listen")} <= families


def test_other_sockets(talker):
    shell, ask_for = talker
    for command, family, place in (
        ("cat /proc/net/raw", "ipv4", 9),
        ("cat /proc/net/unix", "unix", 6),
        ("cat /proc/net/netlink", "netlink", 9),
        ("cat /proc/net/packet", "packet", 8),
    ):
        compare(
            shell,
            command,
            # The kernel's own netlink sockets have port 0, and nobody has them open.
            lambda text, place=place, family=family: {
                int(f[place]) for f in map(str.split, text.splitlines()[1:]) if f[place] != "0" and (family != "netlink" or f[2] != "0")
            },
            lambda family=family: {
                s["inode"] for s in ask_for("sockets") if s["family"] == family and (family != "ipv4" or s["type"] == "raw")
            },
        )
    assert "/dev/log" in {s["local"] for s in ask_for("sockets") if s["family"] == "unix"}


def test_mounts(talker):
    shell, ask_for = talker
    inner = next(p["pid"] for p in ask_for("processes") if p["command"] == "sleep 100004")
    for pid, more in ((1, ()), (inner, ("--pid", inner))):
        compare(
            shell,
            f"cat /proc/{pid}/mounts",
            lambda text: {(f[0].replace("\\040", " "), f[1], f[2], "ro" in f[3].split(",")) for f in map(str.split, text.splitlines())},
            lambda more=more: {(m["device"], m["point"], m["type"], m["read_only"]) for m in ask_for("mounts", *more)},
        )


def test_syscalls(talker):
    shell, ask_for = talker
    found = re.findall(r"^([0-9a-f]+) \S (__x64_sys_\S+)$", shell.say("grep ' __x64_sys_' /proc/kallsyms"), re.MULTILINE)
    symbols = {name: int(address, 16) for address, name in found}
    table = ask_for("syscalls")
    assert len(table) > 400
    assert [entry["number"] for entry in table] == list(range(len(table)))
    for entry in table:
        assert symbols[entry["symbol"]] == int(entry["address"], 16), entry
    assert table[0]["symbol"] == "__x64_sys_read"


def test_log(talker):
    shell, ask_for = talker

    def lines(record):
        return {(f"{record['seconds']:.6f}", line.strip()) for line in record["text"].split("\n")}

    compare(
        shell,
        "dmesg -r",
        lambda text: {(time, line.strip()) for time, line in re.findall(r"^<\d+>\[ *([\d.]+)\] ?(.*)$", text, re.MULTILINE)},
        lambda: set().union(*map(lines, ask_for("log"))),
    )
    assert any(record["text"] == "from a user" and record["level"] == 3 for record in ask_for("log"))


def test_what_cannot_be_asked(talker):
    _, ask_for = talker
    for kind in ("threads", "files", "sockets", "mounts"):
        with pytest.raises(lab.EngineError) as caught:
            ask_for(kind, "--pid", 4_000_000)
        assert caught.value.code == "not-found"
    with pytest.raises(lab.EngineError):
        ask_for("log", "--pid", 1)
