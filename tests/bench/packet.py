"""What the packet path costs a guest's network.

usage: tests/bench/run packet      (as root)

A tap, a bridge and an outside world in namespaces of their own; the floor of each figure is the bridge without the engine, by turns:
packet.one_way_us    one frame of 60 bytes from the guest's write to the far end's read, nothing else under way
packet.frame_us      frames of 60 bytes, up to 64 under way
packet.large_MBps    TCP segments of 64 KB that nothing has cut (more is better)
packet.swap_ms, packet.undo_ms            the interposition of a running guest and its end, all of it
packet.swap_gap_ms, packet.undo_gap_ms    of that, how long nothing came through
"""

import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]


def run():
    configure = ["cmake", "--preset", "release"]
    build = ["cmake", "--build", "build/release", "--parallel", "2", "--target", "path_bench"]
    for command in (configure, build):
        subprocess.run(command, cwd=TOP, check=True, stdout=sys.stderr)
    subprocess.run([TOP / "build/release/cpp/net/path_bench"], check=True)


if __name__ == "__main__":
    run()
