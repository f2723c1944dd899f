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

"""Notifications ``hypervisor_service.checkpoint.{create,restore,export,verify,delete}.{start,end,error}``.

The payload is flat: server_id, project_id, user_id, operation_id,
checkpoint_id, name; ``error`` has code, message and hint beside them.

And ``hypervisor_service.alert``, which nobody asked for: server_id, number,
time, layer, severity, title, detail.
"""

from typing import Any

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

PREFIX = "hypervisor_service.checkpoint"
ALERT = "hypervisor_service.alert"


class Notifier:
    """Thread-safe. A message bus that is down loses the notification, never the operation."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        transport = messaging.get_notification_transport(conf)
        self._notifier = messaging.Notifier(transport, publisher_id=f"mhv-agent.{conf.host}")

    def start(self, context: oslo_context.RequestContext, action: str, payload: dict[str, Any]) -> None:
        self._send(self._notifier.info, context, f"{action}.start", payload)

    def end(self, context: oslo_context.RequestContext, action: str, payload: dict[str, Any]) -> None:
        self._send(self._notifier.info, context, f"{action}.end", payload)

    def error(self, context: oslo_context.RequestContext, action: str, payload: dict[str, Any]) -> None:
        self._send(self._notifier.error, context, f"{action}.error", payload)

    def alert(self, payload: dict[str, Any]) -> None:
        """With the priority that its severity is; an unknown one is no reason to lose it."""
        sends = {"info": self._notifier.info, "critical": self._notifier.critical}
        self._deliver(sends.get(payload["severity"], self._notifier.warn), {}, ALERT, payload)

    def _send(self, send: Any, context: oslo_context.RequestContext, event: str, payload: dict[str, Any]) -> None:
        who = {"project_id": context.project_id, "user_id": context.user_id}
        self._deliver(send, {"request_id": context.request_id, **who}, f"{PREFIX}.{event}", {**who, **payload})

    def _deliver(self, send: Any, context: dict[str, Any], event: str, payload: dict[str, Any]) -> None:
        try:
            send(context, event, payload)
        except Exception:
            LOG.exception("The notification %s was not sent", event)
