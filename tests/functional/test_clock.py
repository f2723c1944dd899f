"""A guest's time over the pauses of its checkpoints, on KVM (tests/run kvm): under TCG nobody can set a guest's clock."""

import time

import lab
import pytest

CHECKPOINTS = 30
SUSPENDED_S = 3


def behind(guest):
    """Seconds by which the guest's clock is behind the host's, but for a constant."""

    def once():
        began = time.monotonic()
        words = dict(word.split("=", 1) for word in guest.ask("clock").split())
        ended = time.monotonic()
        return ended - began, (began + ended) / 2 - int(words["monotonic_ns"]) / 1e9

    return min(once() for _ in range(10))[1]


@pytest.mark.skipif(lab.VIRT != "kvm", reason="under TCG a guest's clock cannot be set: run tests/run kvm")
def test_pauses_cost_no_time(make_guest, engine, host):
    guest = make_guest("lean")
    engine.attach(guest.name)
    engine.create(guest.name)
    before = behind(guest)
    paused = sum(int(engine.create(guest.name)["pause_us"]) for _ in range(CHECKPOINTS)) / 1e6
    lab.wait_until("the pauses to be given back", lambda: behind(guest) - before < paused / 4, 20)
    assert int(engine.status(guest.name)["paused_us"]) / 1e6 >= paused

    host.virsh("suspend", guest.name)  # that its clock stops then is meant, and shows that it does
    time.sleep(SUSPENDED_S)
    host.virsh("resume", guest.name)
    engine.create(guest.name)
    engine.create(guest.name)
    time.sleep(1)  # in which it would be given back, if it were
    assert behind(guest) - before > SUSPENDED_S / 2
    guest.assert_whole()
