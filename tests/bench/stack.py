"""What the stack of layers costs.

usage: tests/bench/run stack [--rounds N] [--seconds S]

ring_*             a channel between two threads: one message of 64 bytes one way, received by polling (floor: a cache line that two
                   threads bounce) and by being woken (floor: a byte through a bare socket pair), and messages of 64 KiB (floor: memcpy)
service_vm_*       of a layer in a service VM: epoch_us, from when the engine has an epoch until it knows that the layer has finished it
                   (floor: the same layer in a process), and ready_ms, from its start until it can be asked (floor: the same)
attach_pause_ms    how long a guest that computes stands still while a layer that reads all there is (integrity) is added to it, up to the
                   end of the layer's first epoch, and detach_pause_ms while it is taken away: all times between QEMU's STOP and RESUME
                   together. The floor is stop, device state and cont, once, of the same guest, in turn
epoch_*_N          a guest that rewrites 1,000 pages a second, with the first N of LAYERS, each with 40 epochs a second (N=0: the engine
                   alone), for every 25 ms: cost_us is what the guest stands still (floor: one stop, device state and cont), worker_us and
                   layers_us what the engine and the layers compute meanwhile, pauses how often the guest stands still. hz: the epochs
                   a second of the layer that finishes the fewest
"""

import argparse
import json
import shutil
import statistics
import subprocess
import time

from common import Guest, Monitor, Pauses, build, lab, line, processor_ms, real_host

EPOCH_S = 0.025
LAYERS = ("introspection", "integrity", "heatmap", "heatmap-again")


def wait_checked(engine, guest):
    """Until integrity has looked at an epoch."""

    def checked():
        try:
            return engine.call("layer", "call", guest.name, "integrity", "status", "{}")["status"].get("checks")
        except lab.EngineError:  # it is just being started
            return 0

    lab.wait_until("a check", checked)


def layers(engine, guest):
    return {layer["name"]: layer for layer in engine.status(guest.name).get("layers", [])}


def least_hz(engine, guest, names, seconds):
    """Epochs a second of the layer that finishes the fewest. The engine says how many there were after each checkpoint."""
    counts = []
    for wait in (0, seconds, 0):  # the first checkpoint takes long
        engine.create(guest.name)
        seen = layers(engine, guest)
        counts.append((time.perf_counter(), [int(seen[name].get("epochs", 0)) for name in names]))
        time.sleep(wait)
    (began, before), (ended, after) = counts[1:]
    return min(now - then for now, then in zip(after, before, strict=True)) / (ended - began)


def bench_attach(engine, guest, monitor, pause, rounds):
    guest.ask("redis", port=7001)
    engine.attach(guest.name, "--service", "checkpoint")

    attached, detached, floors = [], [], []
    for _ in range(rounds):
        floors.append(pause.take_ms())
        monitor.stops_ms()
        engine.call("service", "add", guest.name, "integrity", "--configure", json.dumps({"epoch_ms": 60000}))
        wait_checked(engine, guest)
        attached.append(sum(monitor.stops_ms()))
        engine.call("service", "remove", guest.name, "integrity")
        detached.append(sum(monitor.stops_ms()))
    floor = statistics.median(floors)
    line("stack.attach_pause_ms", statistics.median(attached), "ms", floor)
    line("stack.attach_pause_ms_max", max(attached), "ms", floor)
    line("stack.detach_pause_ms_max", max(detached), "ms", floor)
    guest.ask("off", port=7001)
    engine.forget(guest.name)


def quicken(host):
    """Every layer of the host can have 40 epochs a second, and has; one more is a second copy of its program."""
    folder = host.bin / "layers"
    shutil.copytree(folder / "heatmap", folder / "heatmap-again")
    for name in LAYERS:
        file = folder / name / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["name"] = name
        manifest["configuration"]["properties"]["epoch_ms"] = {"type": "integer", "default": int(EPOCH_S * 1000)}
        file.write_text(json.dumps(manifest))


def processes_of_layers(host):
    """Process ids of all that runs in a sandbox on the host, with the sandboxes."""
    out, parents = [], host.run("pgrep", "-P", host.daemon_pid("mhvd"), "-f", "mhv-jail ", check=False).stdout.split()
    while parents:
        out += parents
        parents = host.run("pgrep", "-P", ",".join(parents), check=False).stdout.split()
    return out


def bench_epochs(host, engine, guest, monitor, floor_ms, seconds):
    guest.ask("rate 1000")
    for count in range(len(LAYERS) + 1):
        names = LAYERS[:count]
        services = [word for name in ("checkpoint", *names) for word in ("--service", name)]
        engine.attach(guest.name, *services)
        lab.wait_until("all to be ready", lambda names=names: all(layers(engine, guest)[name]["state"] == "ready" for name in names))
        if "integrity" in names:
            wait_checked(engine, guest)
        time.sleep(1)
        worker, sandboxed = engine.status(guest.name)["worker_pid"], processes_of_layers(host)

        def computed(worker=worker, sandboxed=sandboxed):
            return processor_ms(worker), sum(map(processor_ms, sandboxed))

        monitor.stops_ms()
        before, began = computed(), time.perf_counter()
        time.sleep(seconds)
        stood, after, took = monitor.stops_ms(), computed(), time.perf_counter() - began
        share = EPOCH_S / took * 1000  # so many milliseconds in all that time are so many microseconds in an epoch
        line(f"stack.epoch_cost_us_{count}", sum(stood) * share, "us", floor_ms * 1000)
        line(f"stack.epoch_worker_us_{count}", (after[0] - before[0]) * share, "us")
        line(f"stack.epoch_layers_us_{count}", (after[1] - before[1]) * share, "us")
        line(f"stack.epoch_pauses_{count}", len(stood) * EPOCH_S / took, "pauses")
        if names:
            line(f"stack.epoch_hz_{count}", least_hz(engine, guest, names, seconds / 2), "Hz", 1 / EPOCH_S)
        guest.assert_whole()
        engine.forget(guest.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="layers added and taken away (20)")
    parser.add_argument("--seconds", type=float, default=10, help="of epochs, with each number of layers (10)")
    options = parser.parse_args()
    programs = build("ring_bench", "service_vm_bench", "mhv-jail", "mhv-layer-heatmap")
    subprocess.run([programs / "ring/ring_bench"], check=True)
    with real_host() as (host, images, folder):
        layers = programs.parent / "layers"
        subprocess.run([programs / "mhvd/service_vm_bench", programs / "jail/mhv-jail", layers, host.bin / "service-vm"], check=True)
        engine = lab.Engine(host)
        guest = Guest(host, images, folder / "guests", "lean", mib=64, ram_mib=512).start()
        try:
            monitor = Monitor(host, guest.monitor)
            pause = Pauses(monitor)
            bench_attach(engine, guest, monitor, pause, options.rounds)
            floor_ms = statistics.median(pause.take_ms() for _ in range(41))
            quicken(host)
            bench_epochs(host, engine, guest, monitor, floor_ms, options.seconds)
            pause.close()
            monitor.close()
        finally:
            guest.remove()


if __name__ == "__main__":
    main()
