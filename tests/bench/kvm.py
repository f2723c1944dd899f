"""What checkpoints cost a guest on KVM, counted inside the machine of tests/kvm/run, which is too slow for anything to be timed there.

usage: tests/bench/run kvm
"""

import json
import subprocess
import sys
import tempfile

from common import lab, line

TOUCHED_MIB = (128, 1024)
TRIES = 3  # the machine's nested SVM is unsteady: guests hang or end there with nothing attached, and so may the machine
MACHINE_S = 1800
NAME = "checkpoint.kvm_faults_per_epoch"


def make_what_runs_inside():
    with tempfile.TemporaryDirectory(prefix="mhv-bench-", dir="/var/tmp") as name:
        lab.Host(name).drive("build")
        subprocess.run([lab.TOP / "devstack/guest/build", f"{name}/images"], check=True, stdout=sys.stderr)


def measure(mib):
    """What tests/kvm/faults.py printed in a machine of its own, as {name: line}. How it went is said on standard error."""
    inside = [lab.TOP / "tests/kvm/run", "--program", lab.TOP / "tests/kvm/faults.py", str(mib)]
    for attempt in range(1, TRIES + 1):
        done = subprocess.run(["timeout", "--foreground", str(MACHINE_S), *inside], stdout=subprocess.PIPE, text=True, errors="replace")
        sys.stderr.write(done.stdout)
        if done.returncode == 0:
            lines = [json.loads(text) for text in done.stdout.splitlines() if text.startswith('{"name"')]
            return {result["name"]: result for result in lines}
        if "WRONG" in done.stdout:
            raise SystemExit("kvm: the guest found its memory or its disk wrong")
        print(f"kvm: {mib} MiB, attempt {attempt} of {TRIES}: status {done.returncode}", file=sys.stderr)
    raise SystemExit(f"kvm: {mib} MiB: nothing was measured")


def main():
    make_what_runs_inside()
    found = {}
    for mib in TOUCHED_MIB:
        results = measure(mib)
        for result in results.values():
            print(json.dumps(result), flush=True)
        found |= results
    small, large = TOUCHED_MIB
    for kind in ("", ".reading"):
        line(f"{NAME}.growth{kind}", found[f"{NAME}.{large}{kind}"]["value"], "faults", found[f"{NAME}.{small}{kind}"]["value"])


if __name__ == "__main__":
    main()
