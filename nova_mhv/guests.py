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

"""The driver's one seam to the engine: guests, by server UUID.

Two kinds of calls: ``attach`` and ``self_test`` raise EngineFailure; the
others are for lifecycle actions that must go on without an engine, so they
log, and say by their result whether it was done.

Thread-safe. A call takes at most [mhv] attach_timeout: an engine that hangs
costs a lifecycle action that long once, and never more.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import nova.conf
from nova import exception, utils
from oslo_log import log as logging

from nova_mhv import engine, flavor

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

_RETRY_S = 0.5
_MAY_PASS = ("unavailable", "busy")  # what a short wait can mend


class EngineFailure(exception.NovaException):
    msg_fmt = "Hypervisor services: %(reason)s"

    def __init__(self, reason: str, code: str = "unavailable") -> None:
        super().__init__(reason=reason)
        self.code = code


class Guests:
    """Also remembers which guests the engine pauses (``watches``), from attach to detach or forget."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[str] = set()
        self._had: dict[str, flavor.Services] = {}  # of guests that were let go and will be back
        self._client: Any = None

    def watches(self, uuid: str) -> bool:
        return uuid in self._watched

    def watch(self, uuid: str) -> None:
        """Takes a guest as attached; for guests of before this process started."""
        with self._lock:
            self._watched.add(uuid)

    def unwatch(self, uuid: str) -> None:
        with self._lock:
            self._watched.discard(uuid)

    def attach(self, uuid: str, wanted: flavor.Services, patient: bool = False) -> None:
        """Puts a running guest under ``wanted``, also when it was under something else.

        What it has beyond ``wanted`` was added to it while it ran, and stays: whoever gives it another flavor detaches it before.
        ``patient``: wait up to [mhv] attach_timeout for an engine that is not there yet.
        Raises EngineFailure.
        """
        # Before the request: the engine may pause the guest before its answer is here.
        was_watched = self.watches(uuid)
        self.watch(uuid)
        deadline = time.monotonic() + CONF.mhv.attach_timeout
        while True:
            try:
                self._attach_once(uuid, wanted)
                return
            except EngineFailure as failure:
                if patient and failure.code in _MAY_PASS and time.monotonic() < deadline:
                    time.sleep(_RETRY_S)
                    continue
                if not was_watched:
                    self.unwatch(uuid)
                raise

    def _attach_once(self, uuid: str, wanted: flavor.Services) -> None:
        attached = self._attached_as(uuid)
        wanted = wanted.with_added(attached or self._had.get(uuid))

        def attach() -> None:
            self._call("attach", uuid, list(wanted.names), wanted.interval_s, wanted.keep, wanted.disks, wanted.overhead_max,
                       dict(wanted.configurations))  # fmt: skip

        try:
            attach()
        except EngineFailure as failure:
            if failure.code != "exists":
                raise
            if attached != wanted:
                LOG.info("Server %s is under other hypervisor services than its flavor asks for; changing them.", uuid)
                self._call("detach", uuid)
                attach()
        self._had.pop(uuid, None)

    def _attached_as(self, uuid: str) -> flavor.Services | None:
        """None, too, for a guest that is detached: it has no services."""
        try:
            known = self._call("status", uuid)
        except EngineFailure as failure:
            if failure.code != "not-found":
                raise
            known = []
        for guest in known:
            options = guest["options"]
            if options["services"]:
                return flavor.Services(
                    names=tuple(options["services"]),
                    interval_s=options["checkpoint_interval_s"],
                    keep=options["checkpoint_keep_policy"] or options["checkpoint_keep"],
                    disks=options["checkpoint_disks"],
                    overhead_max=options["checkpoint_overhead_max"],
                    configurations=options["configurations"],
                )
        return None

    def network_hold(self, uuid: str) -> str:
        """Which of its services hold the guest's network, and why; "" when none does, or the engine does not say."""
        try:
            known = self._call("status", uuid)
        except EngineFailure as failure:
            if failure.code != "not-found":
                LOG.warning("Server %s: whether its network is held is not known. %s", uuid, failure)
            return ""
        holds = [layer for guest in known for layer in guest["layers"] if layer["network_hold"]]
        return ", ".join(f"{layer['name']} ({layer['network_hold']})" for layer in holds)

    def let_go(self, uuid: str) -> bool:
        """Detaches a guest that will be attached again, then with what was added to it."""
        try:
            had = self._attached_as(uuid)
        except EngineFailure as failure:
            LOG.warning("Server %s: what was added to it is not known. %s", uuid, failure)
            had = None
        done = self.detach(uuid)
        if had is not None:
            self._had[uuid] = had
        return done

    def drop_added(self, uuid: str) -> None:
        """What was added to a guest that was let go ends there: it gets another flavor, or another host."""
        self._had.pop(uuid, None)

    def detach(self, uuid: str) -> bool:
        """Lets go of the guest; its checkpoints stay. A guest that the engine does not know counts as done."""
        self.unwatch(uuid)
        self.drop_added(uuid)
        return self._try("detach", uuid)

    def forget(self, uuid: str) -> bool:
        """Detaches the guest and deletes its checkpoints. A guest that the engine does not know counts as done."""
        self.unwatch(uuid)
        self.drop_added(uuid)
        return self._try("forget", uuid)

    def hold(self, uuid: str, reason: str, timeout_s: float) -> bool:
        return self._try("hold", uuid, reason, timeout_s)

    def release(self, uuid: str) -> bool:
        return self._try("release", uuid)

    def known(self) -> list[dict[str, Any]]:
        """Every guest of the engine (GuestStatus as a dictionary). Raises EngineFailure."""
        return self._call("status")

    def self_test(self) -> list[dict[str, Any]]:
        """What this host can do: dictionaries of service, available, reason. Raises EngineFailure."""
        return self._call("self_test")["capabilities"]

    def _try(self, method: str, uuid: str, *args: Any) -> bool:
        try:
            self._call(method, uuid, *args)
        except EngineFailure as failure:
            if failure.code == "not-found":
                return True
            LOG.warning("Server %s: %s failed, going on without it. %s", uuid, method, failure)
            return False
        return True

    def _call(self, method: str, *args: Any) -> Any:
        def call() -> Any:
            return getattr(self._connected(), method)(*args)

        timeout_s = CONF.mhv.attach_timeout
        try:
            return bounded(call, timeout_s)
        except TimeoutError:
            raise EngineFailure(f"no answer from mhvd in {timeout_s:g} s; look at its log, or restart it") from None
        except engine.EngineError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise EngineFailure(f"{error.message}{hint}", error.code) from error

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = utils.tpool_wrap(engine.Client(CONF.mhv.engine_socket))
            return self._client


def bounded(call: Callable[[], Any], timeout_s: float) -> Any:
    """Its result, or TimeoutError. A call that does not end keeps its thread until mhvd closes the connection."""
    if not utils.concurrency_mode_threading():
        import eventlet

        with eventlet.Timeout(timeout_s, TimeoutError()):
            return call()

    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = call()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="mhv-engine-call", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
