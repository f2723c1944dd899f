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

"""What this host can do, as traits: CUSTOM_MHV_<SERVICE> where the engine's self-test passed.

The namespace CUSTOM_MHV_ of the compute node's resource provider is ours:
a trait in it whose service is not there (any more) is taken away.
"""

import threading
import time
from collections.abc import Callable, Iterable

from oslo_log import log as logging

from nova_mhv.guests import EngineFailure, Guests

LOG = logging.getLogger(__name__)

TRAIT_PREFIX = "CUSTOM_MHV_"
PERIOD_S = 30.0


def trait(service: str) -> str:
    return TRAIT_PREFIX + service.upper().replace("-", "_")


def _problem_of(capability) -> str:
    return "" if capability["available"] else capability["reason"] or "no reason given"


class Capabilities:
    """Thread-safe. Asks the engine at most once in PERIOD_S."""

    def __init__(self, guests: Guests, clock: Callable[[], float] = time.monotonic) -> None:
        self._guests = guests
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._problems: dict[str, str] = {}  # service -> why it is not there; "" when it is
        self._engine_problem = ""

    def update_provider_tree(self, provider_tree, nodename: str) -> None:
        self._refresh()
        wanted = {trait(service) for service, problem in self._problems.items() if not problem}
        reported = {name for name in provider_tree.data(nodename).traits if name.startswith(TRAIT_PREFIX)}
        provider_tree.add_traits(nodename, *sorted(wanted - reported))
        provider_tree.remove_traits(nodename, *sorted(reported - wanted))

    def require(self, services: Iterable[str]) -> None:
        """Raises EngineFailure when one is not there, after a fresh look."""
        problem = self._problem(services)
        if problem:
            self._refresh(force=True)
            problem = self._problem(services)
        if problem:
            raise EngineFailure(problem, "unsupported")

    def _problem(self, services: Iterable[str]) -> str:
        self._refresh()
        if self._engine_problem:
            return self._engine_problem
        for service in services:
            problem = self._problems.get(service, "the engine of this host does not know it")
            if problem:
                return f"{service} is not available on this host: {problem}"
        return ""

    def _refresh(self, force: bool = False) -> None:
        with self._lock:
            now = self._clock()
            if not force and self._asked is not None and now - self._asked < PERIOD_S:
                return
            self._asked = now
            try:
                tested = self._guests.self_test()
                problems = {one["service"]: _problem_of(one) for one in tested}
                engine_problem = ""
            except EngineFailure as failure:
                problems, engine_problem = {}, failure.kwargs["reason"]
            self._log_changes(problems, engine_problem)
            self._problems, self._engine_problem = problems, engine_problem

    def _log_changes(self, problems: dict[str, str], engine_problem: str) -> None:
        if engine_problem and engine_problem != self._engine_problem:
            LOG.warning("No hypervisor service on this host: %s", engine_problem)
        for service, problem in problems.items():
            if self._problems.get(service) == problem:
                continue
            if problem:
                LOG.warning("Hypervisor service %s is not available on this host: %s", service, problem)
            else:
                LOG.info("Hypervisor service %s is available on this host.", service)
