"""Layers in virtual machines of their own: the same answers, the same life, and nothing to be reached from there."""

import json
import re
import subprocess

import lab
import pytest
from test_layers import ask, introspect, lasting, layers, wait_ready

CONF = "/etc/nova-mhv/mhvd.conf"
BOOT_S = 120
IN_VMS = ("introspection", "hostile")
HOSTILE = {
    "name": "hostile",
    "version": "1",
    "vendor": "nobody",
    "abi": 1,
    "program": "hostile",
    "policy": "fail-open",
    "claims": {"memory": "read", "vcpu": "read"},
}


def restart_mhvd(host):
    for action in ("stop", "start"):
        host.drive("daemon", host.number, "mhvd", action)


@pytest.fixture(scope="module")
def vms(host):
    """mhvd starts these layers in service VMs."""
    text = "".join(f'service-vm="{name}"\n' for name in IN_VMS)
    host.run("sh", "-c", f"cat > {CONF}", input=text)
    folder = host.bin / "layers/hostile"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(HOSTILE))
    program = folder / "hostile"
    source = lab.TOP / "tests/functional/hostile_layer.c"
    subprocess.run(["gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    program.chmod(0o755)
    restart_mhvd(host)
    yield
    host.run("rm", "-f", CONF)
    lab.shutil.rmtree(folder)
    restart_mhvd(host)


@pytest.fixture(params=["memfd", "anon"])
def guest(request, vms, make_guest, engine):
    guest = make_guest(request.param)
    engine.attach(guest.name, "--service", "checkpoint", "--service", "introspection")
    wait_ready(engine, guest, "introspection")
    return guest


def machine_of(guest, layer):
    """Process id of the QEMU that the layer's mhv-jail keeps."""
    mhvd = str(guest.host.daemon_pid("mhvd"))
    emulators = guest.host.run("pgrep", "-f", f"qemu-system-x86_64 .*mhv.layer=[^ ]*{layer} ").stdout.split()
    found = [pid for pid in map(int, emulators) if mhvd in ancestors(pid) and "mhv-jail" not in command(pid)]
    assert len(found) == 1, (emulators, found)
    return found[0]


def command(pid):
    return lab.pathlib.Path(f"/proc/{pid}/comm").read_text().strip()


def ancestors(pid):
    out = []
    while pid > 1:
        pid = int(lab.pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        out.append(str(pid))
    return out


def test_a_layer_answers_and_lives_as_in_a_process(engine, guest):
    processes = introspect(engine, guest, "processes")
    assert any(process["pid"] == 1 and process["command"] for process in processes)
    assert re.match(r"Linux version \d+\.\d+", introspect(engine, guest, "kernel")[0]["banner"])
    engine.call("service", "add", guest.name, "heatmap")  # in a process
    wait_ready(engine, guest, "introspection", "heatmap")
    guest.set("a", "1")
    checkpoint = engine.create(guest.name)
    before = introspect(engine, guest, "processes")
    guest.set("a", "2")
    engine.restore(guest.name, checkpoint["id"])
    assert guest.get("a") == "1"
    assert lasting(introspect(engine, guest, "processes")) == lasting(before)
    epochs = layers(engine, guest)["introspection"]["epochs"]
    lab.wait_until("further epochs", lambda: layers(engine, guest)["introspection"]["epochs"] > epochs)
    lab.kill(machine_of(guest, "mhv-layer-introspection"))
    lab.wait_until("it to be noticed", lambda: layers(engine, guest)["introspection"].get("restarts"))
    wait_ready(engine, guest, "introspection", "heatmap")
    assert layers(engine, guest)["heatmap"].get("restarts", 0) == 0
    assert introspect(engine, guest, "processes")
    assert ask(engine, guest, "heatmap", "heat") is not None
    engine.call("service", "remove", guest.name, "introspection")
    lab.wait_until("its machine to be gone", lambda: not jails_with_machines(guest))
    guest.assert_whole()


def jails_with_machines(guest):
    mhvd = str(guest.host.daemon_pid("mhvd"))
    return guest.host.run("pgrep", "-P", mhvd, "-f", "mhv-jail --machine", check=False).stdout.split()


def test_a_machine_has_no_rights_on_the_host(guest):
    status = lab.pathlib.Path(f"/proc/{machine_of(guest, 'mhv-layer-introspection')}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    (user,) = set(fields["Uid"].split())
    first, count = 2130706432, 65536
    assert first <= int(user) < first + count
    assert {fields[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0000000000000000"}
    assert (fields["NoNewPrivs"].strip(), fields["Seccomp"].strip()) == ("1", "2")


def test_what_a_hostile_layer_reaches_from_its_machine(engine, host, make_guest, vms):
    guest = make_guest("memfd")
    engine.attach(guest.name, "--service", "checkpoint")
    engine.call("service", "add", guest.name, "hostile")
    log = lab.wait_until("its last attempt", lambda: "attempt forged-ring: done" in host.log("mhvd") and host.log("mhvd"), BOOT_S)
    attempts = dict(re.findall(r"attempt (\S+): (.+?)\s*\??$", log, re.MULTILINE))
    changed = re.fullmatch(r"0 of (\d+) pages changed", attempts.pop("guest-memory"))
    assert changed and int(changed[1]) >= 64
    assert attempts == {
        "user": "root",
        "beyond-channel": "EINVAL",
        "devices": "nothing",
        "disks": "nothing",
        "interfaces": "nothing",
        "network": "ENETUNREACH",
        "shared-folder": "ENODEV",
        "host-file": "ENOENT",
        "forged-ring": "done",
    }
    lab.wait_until("its forgery to be noticed", lambda: "forged" in layers(engine, guest)["hostile"].get("message", ""))
    engine.call("service", "remove", guest.name, "hostile")
    assert engine.create(guest.name)
    guest.assert_whole()
