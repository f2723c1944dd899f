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


"""What the layers of this host's guests find, sent on as notifications: each alert once.

The engine numbers the alerts of a guest. The number of the last one that was
sent is known in memory alone: an agent that starts begins with what comes
then, and what came while none ran is not sent. The engine keeps its last
1,000 alerts of a guest (``openstack server alert list``), and counts anew
when it has forgotten them, so that the last one is known by its time, too.
"""

import datetime
import threading
from collections.abc import Callable
from typing import Any

from oslo_log import log as logging

from nova_mhv import engine, layers

LOG = logging.getLogger(__name__)

PERIOD_S = 1.0
STOP_S = 10.0

Send = Callable[[dict[str, Any]], None]


def public(alert: dict[str, Any]) -> dict[str, Any]:
    """An alert of the engine as the API and notifications show it."""
    try:
        detail = layers.parse_json(alert["detail"]) if alert["detail"] else {}
    except ValueError:
        detail = {"text": alert["detail"]}
    moment = datetime.datetime.fromtimestamp(alert["time_ns"] / 1e9, datetime.UTC)
    return {
        "number": alert["number"],
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "layer": alert["layer"],
        "severity": alert["severity"],
        "title": alert["title"],
        "detail": detail,
    }


class AlertWatch:
    """Asks the engine once in PERIOD_S, in a thread of its own from ``start`` to ``stop``."""

    def __init__(self, connect: Callable[[], engine.Client], send: Send) -> None:
        self._connect = connect
        self._send = send
        self._last: dict[str, tuple[int, int]] | None = None  # by guest: number and time of the last that was sent
        self._stopped = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        client = self._connect()
        while not self._stopped.wait(PERIOD_S):
            try:
                self.look(client)
                self._trouble = ""
            except engine.EngineError as error:
                if error.message != self._trouble:
                    LOG.warning("Alerts of this host's servers are not seen: %s", error.message)
                self._trouble = error.message
            except Exception:
                LOG.exception("Alerts of this host's servers were not seen")

    def look(self, client: engine.Client) -> None:
        """One look at every guest. The first one that succeeds sends nothing."""
        known = self._last
        last: dict[str, tuple[int, int]] = {}
        for guest in client.status():
            uuid = guest["uuid"]
            since = known.get(uuid, (0, 0)) if known is not None else (0, 0)
            try:
                new = _newer(client, uuid, since)
            except engine.EngineError as error:
                if error.code == "unavailable":
                    raise
                LOG.debug("Server %s has no alerts to show: %s", uuid, error.message)
                new = []
            if known is not None:
                for alert in new:
                    self._send({"server_id": uuid, **public(alert)})
                    known[uuid] = (alert["number"], alert["time_ns"])
            last[uuid] = (new[-1]["number"], new[-1]["time_ns"]) if new else since
        self._last = last


def _newer(client: engine.Client, uuid: str, since: tuple[int, int]) -> list[dict[str, Any]]:
    number, _ = since
    found = client.alerts(uuid, max(number - 1, 0))
    if number == 0:
        return found
    if found and (found[0]["number"], found[0]["time_ns"]) == since:
        return found[1:]
    # It is not there any more: too many came since, or the engine counts anew. All that is there came later.
    return client.alerts(uuid, 0)
