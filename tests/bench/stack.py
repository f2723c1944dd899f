"""What the stack of layers costs.

usage: tests/bench/run stack

A channel between two threads: one message of 64 bytes one way, received by polling (floor: a cache line that two threads bounce)
and by being woken (floor: a byte through a bare socket pair), and messages of 64 KiB (floor: memcpy).
"""

import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]


def main():
    configure = ["cmake", "--preset", "release"]
    build = ["cmake", "--build", "build/release", "--parallel", "2", "--target", "ring_bench"]
    for command in (configure, build):
        subprocess.run(command, cwd=TOP, check=True, stdout=sys.stderr)
    subprocess.run([TOP / "build/release/cpp/ring/ring_bench"], check=True)


if __name__ == "__main__":
    main()
