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

"""Holds: the engine does not pause a guest while Nova acts on it.

Without one, Nova could find a guest stopped by an epoch and take that for its
own pause, or save it as paused.
"""

import collections
import contextlib
import threading
from collections.abc import Iterator

from nova_mhv.guests import Guests

# A hold that nobody releases (nova-compute was killed) ends by itself after this.
HOLD_S_MAX = 1800.0


class Holds:
    """Thread-safe. Holds on one guest may nest and overlap: the engine sees the outermost."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests
        self._lock = threading.Lock()
        self._depths: collections.Counter[str] = collections.Counter()

    def held(self, uuid: str) -> bool:
        return self._depths[uuid] > 0

    @contextlib.contextmanager
    def hold(self, uuid: str, reason: str) -> Iterator[None]:
        """Always runs the body, and always releases: an engine that does not answer is logged, no more."""
        with self._lock:
            self._depths[uuid] += 1
            outermost = self._depths[uuid] == 1
        try:
            if outermost:
                self._guests.hold(uuid, reason, HOLD_S_MAX)
            yield
        finally:
            with self._lock:
                self._depths[uuid] -= 1
                last = self._depths[uuid] == 0
                if last:
                    del self._depths[uuid]
            if last:
                self._guests.release(uuid)
