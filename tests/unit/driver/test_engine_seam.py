#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Guests, holds, events, capabilities and reconciling, without a driver."""

import threading
from types import SimpleNamespace
from unittest import mock

import pytest
from nova.compute import vm_states
from nova.virt import event as virtevent
from oslo_utils.fixture import uuidsentinel as uuids

from nova_mhv import capabilities, domain_xml, driver, events, flavor, guests, hold, reconcile

from .base import FakeEngine, engine_error

WANTED = flavor.Services(("checkpoint",), 30.0, 20, "required")


@pytest.fixture
def engine(monkeypatch):
    fake = FakeEngine()
    monkeypatch.setattr("nova_mhv.engine.Client", lambda path: fake)
    return fake


@pytest.fixture
def known(engine):
    return guests.Guests()


@pytest.fixture
def conf():
    """[mhv] as a test wants it; as it was afterwards."""
    yield driver.CONF
    for option in ("attach_timeout", "keep_checkpoints_on_delete"):
        driver.CONF.clear_override(option, group="mhv")
    driver.CONF.clear_override("host")


def test_attach_twice_is_once(engine, known):
    known.attach("a", WANTED)
    known.attach("a", WANTED)
    assert "detach" not in engine.names()
    assert known.watches("a")


def test_a_guest_that_could_not_be_attached_is_not_watched(engine, known):
    engine.fails["attach"] = engine_error("unsupported", "no", "use another flavor")
    with pytest.raises(guests.EngineFailure, match=r"no \(use another flavor\)"):
        known.attach("a", WANTED)
    assert not known.watches("a")


def test_a_guest_is_watched_before_the_engine_may_pause_it(engine, known):
    engine.attach = lambda *args: seen.append(known.watches("a"))
    seen = []
    known.attach("a", WANTED)
    assert seen == [True]


def test_patience_ends(engine, known, conf):
    engine.fails["attach"] = engine_error("unavailable")
    conf.set_override("attach_timeout", 1.0, group="mhv")
    clock = iter(range(100))
    with mock.patch("time.monotonic", lambda: next(clock)), mock.patch("time.sleep"):
        with pytest.raises(guests.EngineFailure):
            known.attach("a", WANTED, patient=True)


def test_a_hanging_engine_costs_the_timeout_and_no_more():
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        guests.bounded(gate.wait, 0.01)
    gate.set()


def test_bounded_passes_results_and_errors():
    assert guests.bounded(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        guests.bounded(lambda: 1 / 0, 5)


def test_forgetting_an_unknown_guest_is_done(engine, known):
    assert known.forget("a")


def test_holds_nest(engine, known):
    holds = hold.Holds(known)
    with holds.hold("a", "outer"):
        with holds.hold("a", "inner"), holds.hold("b", "other"):
            assert holds.held("a") and holds.held("b")
        assert holds.held("a") and not holds.held("b")
    assert engine.calls == [("hold", "a", "outer"), ("hold", "b", "other"), ("release", "b"), ("release", "a")]


def test_a_hold_survives_a_dead_engine(engine, known):
    engine.fails.update(hold=engine_error("unavailable"), release=engine_error("unavailable"))
    holds = hold.Holds(known)
    with holds.hold("a", "x"):
        pass
    assert not holds.held("a")


@pytest.mark.parametrize(
    ("transition", "hidden"),
    [
        (virtevent.EVENT_LIFECYCLE_PAUSED, True),
        (virtevent.EVENT_LIFECYCLE_RESUMED, True),
        (virtevent.EVENT_LIFECYCLE_STARTED, False),
        (virtevent.EVENT_LIFECYCLE_STOPPED, False),
        (virtevent.EVENT_LIFECYCLE_POSTCOPY_STARTED, False),
        (virtevent.EVENT_LIFECYCLE_MIGRATION_COMPLETED, False),
    ],
)
def test_pauses_of_watched_guests_are_hidden(engine, known, transition, hidden):
    holds = hold.Holds(known)
    event = virtevent.LifecycleEvent("a", transition)
    assert not events.hides(event, known, holds)
    known.watch("a")
    assert events.hides(event, known, holds) == hidden
    with holds.hold("a", "Nova acts"):
        assert not events.hides(event, known, holds)


class Tree:
    """Of nova.compute.provider_tree, what the traits need."""

    def __init__(self, *traits):
        self.traits = set(traits)

    def data(self, name):
        return self

    def add_traits(self, name, *traits):
        self.traits |= set(traits)

    def remove_traits(self, name, *traits):
        self.traits -= set(traits)


def test_traits_come_and_go_with_the_self_test(engine, known):
    now = [0.0]
    able = capabilities.Capabilities(known, clock=lambda: now[0])
    tree = Tree("HW_CPU_X86_AVX", "CUSTOM_MHV_OLD", "CUSTOM_OTHER")
    able.update_provider_tree(tree, "node")
    assert tree.traits == {"HW_CPU_X86_AVX", "CUSTOM_OTHER", "CUSTOM_MHV_CHECKPOINT"}

    engine.capabilities = [{"service": "checkpoint", "available": False, "reason": "kernel 6.1 has no WP_ASYNC"}]
    able.update_provider_tree(tree, "node")
    assert "CUSTOM_MHV_CHECKPOINT" in tree.traits, "asked once in a period"
    now[0] += capabilities.PERIOD_S
    able.update_provider_tree(tree, "node")
    assert "CUSTOM_MHV_CHECKPOINT" not in tree.traits
    with pytest.raises(guests.EngineFailure, match="kernel 6.1"):
        able.require(["checkpoint"])


def test_no_engine_no_traits(engine, known):
    engine.fails["self_test"] = engine_error("unavailable", "mhvd does not answer")
    tree = Tree("CUSTOM_MHV_CHECKPOINT")
    able = capabilities.Capabilities(known)
    able.update_provider_tree(tree, "node")
    assert tree.traits == set()
    with pytest.raises(guests.EngineFailure, match="mhvd does not answer"):
        able.require(["checkpoint"])
    del engine.fails["self_test"]
    able.require(["checkpoint"])  # looks again before it refuses


def test_a_service_nobody_knows_is_refused(engine, known):
    with pytest.raises(guests.EngineFailure, match="does not know it"):
        capabilities.Capabilities(known).require(["ha"])


def test_a_services_trait():
    assert capabilities.trait("remote-memory") == "CUSTOM_MHV_REMOTE_MEMORY"


class Host:
    """Of nova.virt.libvirt.host: guests as (uuid, running, marked)."""

    def __init__(self, *guests_of_it):
        self.guests = guests_of_it

    def list_guests(self, only_running=True):
        for uuid, running, marked in self.guests:
            if running or not only_running:
                xml = domain_xml.enable("<domain/>", "/s") if marked else "<domain/>"
                yield SimpleNamespace(uuid=uuid, get_xml_desc=lambda xml=xml: xml)


def _reconcile(monkeypatch, known, host, **instances):
    """-> (attached, parted with)"""
    usual = {"deleted": False, "host": "me", "task_state": None, "vm_state": vm_states.ACTIVE}
    servers = {uuid: SimpleNamespace(**{"uuid": uuid, **usual, **values}) for uuid, values in instances.items()}
    driver.CONF.set_override("host", "me")
    monkeypatch.setattr(reconcile, "_instance", servers.get)
    attached, parted = [], []
    reconcile.reconcile(known, host, lambda one: attached.append(one.uuid), lambda one: parted.append(one.uuid))
    return attached, parted


def test_running_guests_the_engine_missed_are_attached(monkeypatch, engine, known, conf):
    engine.attach("have", ["checkpoint"])
    engine.guests["let_go"] = {"uuid": "let_go", "state": "detached"}
    host = Host(("have", True, True), ("let_go", True, True), ("missed", True, True), ("plain", True, False),
                ("stopped", False, True), ("moving", True, True), ("foreign", True, True))  # fmt: skip
    moving = {"task_state": "migrating"}
    attached, parted = _reconcile(monkeypatch, known, host, have={}, let_go={}, missed={}, plain={}, stopped={}, moving=moving)
    assert attached == ["let_go", "missed"]
    assert parted == []


def test_checkpoints_of_servers_that_left_are_parted_with(monkeypatch, engine, known, conf):
    for uuid in ("deleted", "moved", "resizing", "stopped", "operators"):
        engine.attach(uuid, ["checkpoint"])
    resizing = {"host": "other", "vm_state": vm_states.RESIZED}
    host = Host(("stopped", False, True))
    attached, parted = _reconcile(
        monkeypatch, known, host, deleted={"deleted": True}, moved={"host": "other"}, resizing=resizing, stopped={}
    )
    assert (attached, sorted(parted)) == ([], ["deleted", "moved"])


def test_kept_checkpoints_are_not_looked_at_again(monkeypatch, engine, known, conf):
    conf.set_override("keep_checkpoints_on_delete", True, group="mhv")
    engine.guests["kept"] = {"uuid": "kept", "state": "detached"}
    assert _reconcile(monkeypatch, known, Host(), kept={"deleted": True}) == ([], [])


def test_reconciling_waits_for_the_engine(monkeypatch, engine, known, conf):
    engine.fails["status"] = engine_error("unavailable")
    assert _reconcile(monkeypatch, known, Host((uuids.guest, True, True))) == ([], [])
